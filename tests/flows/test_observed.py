"""What a run tells a collector of traces and metrics, and a receiver of lineage events; and what it keeps to itself."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import extract, open_lineage
from flows.recorder import observed, plain
from pipeline import telemetry
from pipeline.progress import track
from schemas.errors import UserError
from schemas.extract import PARAMETERS as EXTRACT
from schemas.extract import ExtractSummary
from tests.support import drawn_shop
from tests.support.collector import Collector, attributes

SECRET = "sk-0123456789abcdef"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    """A far end of both kinds, which the environment names."""
    made = Collector()
    point_to(made, monkeypatch)
    return made


def point_to(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OPENLINEAGE_URL", collector.url)


def extracted(folder: Path) -> ExtractSummary:
    drawn_shop.write(folder / "shop")
    fields = drawn_shop.parameters(folder / "shop", folder / "store")
    return extract.run(parameters=EXTRACT["catalogue"](**fields))


@pytest.mark.slow
def test_a_run_is_traced_by_stage_and_shard_counted_and_its_tables_are_named(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    record = extracted(tmp_path)
    spans = collector.spans()
    (run,) = [span for span in spans if not span.parent_span_id]
    assert (run.name, attributes(run)["cm3.dataset"], attributes(run)["cm3.run"]) == ("run", "shop", record.started)
    stages = {span.name: span for span in spans if span.parent_span_id == run.span_id}
    assert [*stages] == ["models", "ingest", "images", "features/sentence", "similarity", "report"]
    (shard,) = [span for span in spans if span.parent_span_id == stages["features/sentence"].span_id]
    assert (shard.name, attributes(shard)["cm3.shard"], attributes(shard)["cm3.steps"]) == ("shard", 1, 200)
    assert shard.start_time_unix_nano < shard.end_time_unix_nano
    assert attributes(stages["features/sentence"])["cm3.count.encoded"] == 200

    measured = [(name, tags.get("stage"), tags.get("name"), value) for name, tags, value in collector.metrics()]
    assert ("cm3.counted", "features/sentence", "encoded", 200) in measured
    assert ("cm3.steps", "features/sentence", None, 200) in measured
    assert ("cm3.duration", "similarity", "similarity", 1) in measured
    assert ("cm3.duration", None, "run", 1) in measured

    events = collector.events()
    assert [(e["eventType"], e["job"]["name"]) for e in (events[0], events[-1])] == [
        ("START", "shop"),
        ("COMPLETE", "shop"),
    ]
    ended = {e["job"]["name"]: e for e in events[1:-1] if e["eventType"] == "COMPLETE"}
    assert [*ended] == [f"shop.{name}" for name in stages]
    assert all(e["run"]["facets"]["parent"]["run"]["runId"] == events[0]["run"]["runId"] for e in ended.values())
    tables = {out["name"]: out["facets"]["version"]["datasetVersion"] for e in ended.values() for out in e["outputs"]}
    assert tables == {str(Path(stage.path).parent): stage.version for stage in record.stages}
    (read,) = ended["shop.similarity"]["inputs"]
    (written,) = ended["shop.features/sentence"]["outputs"]
    assert (read["namespace"], read["name"], read["facets"]) == ("file", written["name"], written["facets"])
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 200

    everything = b"".join(body for bodies in collector.received.values() for body in bodies).decode("latin-1")
    for kept in (SECRET, "A lamp of the", "i000", "u00"):
        assert kept not in everything


def test_an_error_is_told_by_its_kind_alone(collector: Collector) -> None:
    def fails() -> None:
        raise UserError("item i007: the title is 'private'")

    with pytest.raises(UserError), telemetry.exported(), open_lineage.emitted("shop"):
        observed(plain)("ingest", fails)
    told = [(span.name, span.status.message) for span in collector.spans()]
    assert told == [("ingest", "UserError"), ("run", "UserError")]
    assert [e["eventType"] for e in collector.events()] == ["START", "START", "FAIL", "FAIL"]
    assert "private" not in repr(collector.received)


def test_a_collector_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Collector(answers=False)
    point_to(silent, monkeypatch)
    for module in (telemetry, open_lineage):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    with telemetry.exported(), open_lineage.emitted("shop"):
        result = observed(plain)("ingest", lambda: 7)
    assert result == 7
    assert silent.asked.wait(500), "it was asked, and has not answered up to here"
    silent.release()


def test_a_collector_that_is_not_there_costs_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Collector()
    gone.server.shutdown()
    gone.server.server_close()
    point_to(gone, monkeypatch)
    monkeypatch.setattr(open_lineage, "WAIT_SECONDS", 60)  # it says so at once; only this test waits for the line
    with telemetry.exported(), open_lineage.emitted("shop"):
        assert observed(plain)("ingest", lambda: 7) == 7
    assert "OpenLineage events of this run are not sent any more: ConnectionError" in caplog.messages


def test_what_is_no_pair_is_told_by_its_variable_and_kept_to_itself(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES"]
    for name in variables:
        monkeypatch.setenv(name, f"{SECRET},place=here")
    script = (
        "import logging; from pipeline import telemetry\n"
        "logging.basicConfig(format='%(message)s')\n"
        "with telemetry.exported(): pass"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [line.partition(":")[0] for line in answer.stderr.splitlines()] == variables
    assert SECRET not in answer.stderr
    assert [span.name for span in collector.spans()] == ["run"]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "10",
            "nothing is exported: OpenTelemetry does not take the value of one of the variables OTEL_*",
        ),
        (
            "OTEL_METRICS_EXEMPLAR_FILTER",
            SECRET,
            "nothing is exported: OpenTelemetry does not take the value of one of the variables OTEL_*",
        ),
        (
            "OPENLINEAGE_CLIENT_LOGGING",
            SECRET,
            "nothing is sent: OpenLineage does not take the value of one of the variables OPENLINEAGE_*",
        ),
    ],
)
def test_a_variable_that_is_refused_costs_a_line_in_the_log_and_no_thread(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
    line: str,
) -> None:
    monkeypatch.setenv(name, value)
    before = {*threading.enumerate()}
    with telemetry.exported(), open_lineage.emitted("shop"):
        assert observed(plain)("ingest", lambda: 7) == 7
    assert line in caplog.messages
    assert SECRET not in caplog.text
    assert not {thread.name for thread in {*threading.enumerate()} - before if thread.name.startswith("Otel")}


def test_without_an_address_nothing_is_imported_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from pipeline import telemetry; from pipeline.progress import track\n"
        "with telemetry.exported(), telemetry.span('ingest'), track('x', total=2, part='shard') as done: done(2)\n"
        "telemetry.counted({'encoded': 1}, {})\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'openlineage'))])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []


def test_a_loop_outside_of_a_run_is_not_traced(collector: Collector) -> None:
    with track("x", total=2, part="shard") as advance:
        advance(2)
    assert collector.received == {}
