"""Encoders compared on a data set: each content is encoded once, nothing that is served moves, one sentence says it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from flows import encoder_comparison, job, summary
from flows.cli import research
from pipeline.encoders.sentence import SentenceEncoder
from pipeline.store import Store
from schemas.encoder_comparison import EncoderComparisonConfig
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.run import RunSummary
from schemas.training import CM3Config, ComparisonConfig
from tests.support.moody_server import Moody
from tests.support.real_models import tiny_clip
from tests.support.small_demo import FEW, small_demo

MINILM = EncoderSpec(kind="sentence", model="offline:minilm")
SHORT = ComparisonConfig(seeds=(0, 1), cm3=CM3Config(dim=4, max_epochs=1, item_weights=FEW))


@pytest.fixture
def store(finished: tuple[Store, RunSummary], tmp_path: Path) -> Store:
    """A copy of the store with the small demo, which a test may add to."""
    folder = Path(shutil.copytree(finished[0].root, tmp_path / "store"))
    for record in folder.glob("demo/_runs/*.json"):
        record.write_text(record.read_text().replace(finished[0].root, str(folder)))
    return Store(folder)


def config(**encoders: EncoderSpec | None) -> EncoderComparisonConfig:
    return EncoderComparisonConfig(encoders=encoders, trainer=SHORT)


def test_every_content_is_encoded_once_and_what_runs_published_stays_the_latest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {table: store.latest("demo", table).version for table in store.tables("demo")}
    short = MINILM.model_copy(update={"truncate_dim": 64})
    done = encoder_comparison.run(store, "demo", config(short=short, again=short, clip=None))
    assert {table: store.latest("demo", table).version for table in before} == before
    assert {*store.tables("demo")} - {*before} == {"encoder_comparison", "features/short", "features/again"}
    rows = pl.read_parquet(done.path)
    assert rows["encoder"].to_list() == ["short", "again", "clip"]
    assert rows["coverage"].to_list() == [row.coverage for row in done.rows]
    assert rows["pairs"].list.len().to_list() == [4, 2, 0]
    assert all(row.seconds is not None and row.seconds > 0 for row in done.rows)
    assert done.rows[0].bytes < 64 * 4 * 2
    assert done.rows[0].share_a_user is not None
    pair = next(p for p in done.pairs if (p.encoder, p.other, p.measure) == ("short", "again", "warm"))
    assert (pair.p_value, pair.p_holm, pair.ahead) == (1, 1, 0)

    def refused(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr("pipeline.features.speed.seconds_per_content", lambda *_, **__: None)
    monkeypatch.setattr(SentenceEncoder, "encode", refused)
    again = encoder_comparison.run(store, "demo", config(short=short, again=short, clip=None))
    assert (again.pairs, again.path) == (done.pairs, done.path)


def test_the_next_report_has_the_comparison(store: Store) -> None:
    before = reported(store)
    done = encoder_comparison.run(store, "demo", config(sentence=None, clip=None))
    after = reported(store)
    assert f'data-version="{Path(done.path).stem}"' in after
    assert done.verdict in after
    assert "data-version" not in before


def reported(store: Store) -> str:
    """The report of the next run, which changes nothing else."""
    summary = job.run(parameters=small_demo(store.root))
    return Path(summary.report).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("encoders", "why"),
    [
        ({"sentence": None, "colour": None}, "'colour' is no feature of the last run, which made caption, clip, sent"),
        ({"sentence": MINILM, "clip": None}, "the last run has a feature 'sentence' of its own. Rename the file"),
        ({"words": MINILM.model_copy(update={"model": "/nowhere"}), "clip": None}, "found nothing there"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_encoded(
    store: Store, encoders: dict[str, EncoderSpec | None], why: str
) -> None:
    before = store.tables("demo")
    with pytest.raises(UserError, match=why):
        encoder_comparison.run(store, "demo", config(**encoders))
    assert store.tables("demo") == before


def tables_of(store: Store) -> dict[str, TableVersion]:
    """The tables of the last run."""
    return {stage.table: store.get("demo", stage.table, stage.version) for stage in summary.last(store, "demo").stages}


def test_an_encoder_of_texts_and_pictures_reads_both_and_is_measured(store: Store, tmp_path: Path) -> None:
    tiny_clip(tmp_path)
    spec = EncoderSpec(kind="multimodal", model=str(tmp_path / "model"))
    tables = tables_of(store)
    version, seconds, price = encoder_comparison.extracted(store, tables, "unified", spec)
    assert version.lineage["cm3.inputs"].count(":") == 2 + ("gallery" in tables)
    assert seconds is not None
    assert seconds > 0
    assert price == 0
    without = {name: table for name, table in tables.items() if name != "images"}
    with pytest.raises(UserError, match="'unified' reads pictures, but the last run had none"):
        encoder_comparison.check(without, config(unified=spec, sentence=None))


def test_an_endpoint_is_asked_for_every_text_once_and_its_price_counts(store: Store) -> None:
    server = Moody()
    spec, tables = server.encoder(price_in=2e6), tables_of(store)
    first = encoder_comparison.extracted(store, tables, "served", spec)
    _, seconds, price = first
    asked = [text for body in server.bodies[1:] for text in body["input"]]
    assert len(asked) == len(set(asked)) > 0
    assert (seconds or 0) > 0
    assert price == 10
    assert encoder_comparison.extracted(store, tables, "served", spec)[1:] == first[1:], (
        "also where nothing had to be asked"
    )
    dearer = spec.model_copy(update={"price_in": 4e6})
    assert encoder_comparison.extracted(store, tables, "again", dearer)[1:] == (seconds, 20)
    server.shutdown()
    server.server_close()


def test_a_published_features_time_is_measured_without_its_models_loading(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, measured = tables_of(store), []

    def measure(_: Store, spec: EncoderSpec, **read: TableVersion) -> float:
        measured.append((spec.kind, spec.model, *read))
        return 0.5

    monkeypatch.setattr("pipeline.features.speed.seconds_per_content", measure)
    for name in ("sentence", "clip", "caption"):
        assert encoder_comparison.extracted(store, tables, name, None)[1:] == (0.5, 0.0)
    assert measured == [
        ("sentence", "offline:minilm", "source"),
        ("open_clip", "offline:clip-stand-in", "source", "gallery"),
        ("sentence", "offline:minilm", "source"),
    ]
    for stranger in ("/nowhere", "unpinned/model"):
        lineage = tables["features/clip"].lineage | {"cm3.encoder": stranger}
        tables["features/clip"] = tables["features/clip"].model_copy(update={"lineage": lineage})
        assert encoder_comparison.extracted(store, tables, "clip", None)[1:] == (None, 0.0)


def test_encoders_are_files_or_features_by_name(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("kind: sentence\nmodel: offline:minilm\n")
    given: Callable[..., dict[str, EncoderSpec | None]] = research._encoders
    assert given([f"{tmp_path}/small.yaml,clip", "sentence"]) == {"small": MINILM, "clip": None, "sentence": None}
    with pytest.raises(UserError, match="'small' is given twice"):
        given([f"{tmp_path}/small.yaml", "small"])
    (tmp_path / "my small.yaml").write_text("kind: sentence\nmodel: offline:minilm\n")
    with pytest.raises(UserError, match=r"my small.yaml' stands for its encoder.*rename it"):
        given([f"{tmp_path}/my small.yaml"])
    (tmp_path / "bad.yaml").write_text("kind: sentences\nmodel: offline:minilm\n")
    with pytest.raises(UserError, match="kind"):
        given([f"{tmp_path}/bad.yaml"])
