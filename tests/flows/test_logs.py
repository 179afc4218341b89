"""Logs for machines: one JSON object per line, with what the line is about."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import job, logs
from flows.cli.options import log_to_terminal
from pipeline import log_fields, progress
from schemas.errors import UserError
from schemas.run import DemoParameters
from tests.conftest import ROOT
from tests.support.small_demo import QUICK, SMALL


def run(parameters: dict[str, object]) -> None:
    """A run that logs to the terminal, and of its progress every step."""
    progress.LOG_EVERY = 0.0
    log_to_terminal()
    job.run(parameters=DemoParameters.model_validate(parameters))


@pytest.mark.slow
def test_every_line_of_a_run_is_json_with_run_data_set_stage_and_shard(tmp_path: Path) -> None:
    parameters = {"store": str(tmp_path), "demo": SMALL.model_dump(), "trainer": QUICK.model_dump(mode="json")}
    log, environment = tmp_path / "stderr", os.environ | {"CM3_LOGS": "json"}
    # A process of its own: what libraries say while they are imported counts too.
    program = f"import json, sys; from {__name__} import run; run(json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", program, json.dumps(parameters | {"features": ["sentence"]})]
    with log.open("wb") as stderr:
        subprocess.run(command, cwd=ROOT, env=environment, stderr=stderr, check=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    staged = [line for line in lines if "stage" in line]
    assert {line["stage"] for line in staged} >= {"ingest", "images", "features/sentence", "similarity", "train"}
    assert {(line["dataset"], line["run"]) for line in staged} == {
        ("demo", json.loads((tmp_path / "demo/_runs/latest.json").read_text())["started"])
    }
    assert [line["shard"] for line in staged if line["message"].startswith("features/sentence: 60 of 60")] == [1]
    assert max(line["epoch"] for line in staged if "epoch" in line) >= QUICK.max_epochs


def test_a_line_is_one_object_with_its_message_and_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_LOGS", "json")
    logs.show_stages()
    with log_fields.about(run="r", shard=3):
        record = logging.getLogger("pipeline").makeRecord("pipeline", logging.WARNING, "f", 1, "%d left", (2,), None)
    line = json.loads(logs.json_lines().format(record))
    expected = {"level": "WARNING", "logger": "pipeline", "message": "2 left", "run": "r", "shard": 3}
    assert line.items() >= expected.items()


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_LOGS", "xml")
    with pytest.raises(UserError, match="CM3_LOGS=xml: expected text or json"):
        logs.structured()


def test_a_secret_of_the_environment_is_masked_in_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_SHOP_KEY", "sk-0123456789")
    logs.show_stages()
    record = logging.getLogger("pipeline").makeRecord(
        "pipeline", logging.INFO, "f", 1, "said %s", ("sk-0123456789",), None
    )
    assert logging.Formatter().format(record) == "said ***"
    assert json.loads(logs.json_lines().format(record))["message"] == "said ***"
