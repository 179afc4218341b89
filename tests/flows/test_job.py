"""The main job from drawn catalogue to registered embeddings, in one process, with real models."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from flows import job
from pipeline import machine
from pipeline.registry import garbage, versions
from pipeline.store import Store
from schemas import tables
from schemas.encoders import VectorsConfig
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from schemas.run import CatalogueParameters, DemoParameters, RunSummary
from tests.support import drawn_shop
from tests.support.small_demo import QUICK, small_demo

Finished = tuple[Store, RunSummary]
TABLES = {
    "items": tables.ITEMS,
    "interactions": tables.INTERACTIONS,
    "quality": tables.QUALITY,
    "images": tables.IMAGES,
    "captions": tables.CAPTIONS,
    "recommendations": tables.RECOMMENDATIONS,
    "metrics": tables.METRICS,
    "epochs": tables.EPOCHS,
    "similarity": tables.similarity(("caption", "clip", "sentence")),
}
FEATURES = ("sentence", "clip", "caption")


@pytest.mark.parametrize(
    "name", [*TABLES, *(f"features/{f}" for f in FEATURES), "embeddings/items", "embeddings/users"]
)
def test_every_promised_table_is_there_for_duckdb_with_its_lineage(finished: Finished, name: str) -> None:
    store, summary = finished
    version = versions.resolve(store, f"demo/{name}@champion")
    ((rows,),) = duckdb.sql(f"select count(*) from '{version.path}'").fetchall()
    assert rows == next(s.rows for s in summary.stages if s.table == name)
    assert rows > 0
    schema = pq.read_schema(Path(version.path) / "part-00000.parquet")
    if name in TABLES:
        assert schema.remove_metadata().equals(TABLES[name])
    metadata = schema.metadata
    for key in (b"schema", b"schema_version", b"dataset", b"stage", b"config", b"code_version", b"created"):
        assert b"cm3." + key in metadata


def test_the_record_counts_work_done_and_saved_and_failures_by_reason(finished: Finished) -> None:
    store, summary = finished
    stages = {stage.table: stage for stage in summary.stages}
    statuses = store.read(store.latest("demo", "images"), ["status"])["status"].to_pylist()
    counted = dict(stages["images"].counts)
    downloaded = counted.pop("downloaded")
    assert counted == Counter(statuses)
    assert 0 < downloaded <= len(statuses) - counted["no_url"]
    assert stages["images"].rate == pytest.approx(downloaded / stages["images"].seconds)
    for feature in FEATURES:
        counts = stages[f"features/{feature}"].counts
        assert counts["encoded"] == summary.encoded[feature] > 0
        assert counts["encoded"] + counts["reused"] + counts["missing"] + counts["unreadable"] == len(statuses)
    quality = store.read(store.latest("demo", "quality")).to_pylist()
    assert stages["items"].counts == {row["rule"]: row["count"] for row in quality}, "of the stage's first table"


def test_every_feature_has_the_items_ids_in_their_order(finished: Finished) -> None:
    store, _ = finished
    items = store.read(store.latest("demo", "items"), ["item_id"])
    for feature in FEATURES:
        assert store.read(store.latest("demo", f"features/{feature}"), ["item_id"]).equals(items)


@pytest.mark.slow
def test_items_bought_often_once_and_never_all_have_features_neighbours_and_embeddings(tmp_path: Path) -> None:
    drawn_shop.write(tmp_path / "shop")
    fields = drawn_shop.parameters(tmp_path / "shop", tmp_path / "store", trainer=drawn_shop.QUICK)
    summary = job.run(parameters=CatalogueParameters(**fields))
    store = Store(tmp_path / "store")
    items = pl.read_parquet(store.latest("shop", "items").path)
    assert len(items) == 200
    for table in ("images", "features/sentence", "similarity", "embeddings/items"):
        frame = pl.read_parquet(store.latest("shop", table).path)
        assert frame["item_id"].n_unique() == 200, table
    assert summary.coverage == {"sentence": 1.0}
    warm = set(items.filter(pl.col("interactions") > 0)["item_id"])
    assert warm == set(pl.read_parquet(store.latest("shop", "interactions").path)["item_id"])
    assert len(warm) == 100
    counts = next(stage.counts for stage in summary.stages if stage.table == "items")
    assert [counts[rule] for rule in ("warm_item", "rare_item", "unsold_item")] == [100, 50, 50]


def test_imported_vectors_stand_beside_ours_in_graph_and_trainer(finished: Finished, tmp_path: Path) -> None:
    ids = finished[0].read(finished[0].latest("demo", "items"), ["item_id"])["item_id"].to_pylist()
    np.save(tmp_path / "image_feat.npy", np.random.default_rng(0).normal(size=(len(ids), 8)))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    theirs = VectorsConfig(path=f"{tmp_path}/image_feat.npy", format="npy", ids=f"{tmp_path}/ids.txt")
    parameters = small_demo(tmp_path / "store", features=("sentence",), imported={"theirs": theirs})
    summary = job.run(parameters=parameters)
    assert summary.coverage == {"sentence": 1.0, "theirs": 1.0}
    store = Store(tmp_path / "store")
    graph = pq.read_schema(Path(store.latest("demo", "similarity").path) / "part-00000.parquet")
    assert "similarity_theirs" in graph.names
    inputs = json.loads(store.latest("demo", "embeddings/items").lineage["cm3.inputs"])
    assert {"features/sentence", "features/theirs"} <= set(inputs)
    lost = theirs.model_copy(update={"ids": str(tmp_path / "gone")})
    with pytest.raises(UserError, match="cannot read"):
        job.check_models(parameters.model_copy(update={"imported": {"theirs": lost}}))


@pytest.mark.slow
def test_semantic_ids_asked_for_later_belong_to_the_registered_version_and_stay(tmp_path: Path) -> None:
    drawn_shop.write(tmp_path / "shop")

    def run(**changes: object) -> RunSummary:
        fields = drawn_shop.parameters(tmp_path / "shop", tmp_path / "store", trainer=drawn_shop.QUICK, **changes)
        return job.run(parameters=CatalogueParameters(**fields))

    store, first = Store(tmp_path / "store"), run()
    assert not any(stage.table.startswith("semantic") for stage in first.stages), "off by default"
    asked = {"features": ["sentence"], "bits": 4}
    second, third = run(semantic_ids=asked), run(semantic_ids=asked)
    assert second.registered == third.registered == first.registered
    assert all(stage.reused for stage in third.stages)
    counts = next(stage.counts for stage in second.stages if stage.table == "semantic_ids/sentence")
    assert counts["coded"] == 200
    ids = pl.read_parquet(versions.resolve(store, "shop/semantic_ids/sentence@champion").path)
    assert ids["codes"].n_unique() == 200
    assert versions.resolve(store, "shop/semantic_codebooks/sentence@champion").rows == 3 * 2**4
    anew = run(semantic_ids=asked | {"generation": 2})
    unneeded = {(v.table, v.version) for v in garbage.unneeded(store, "shop", keep=1)}
    old, new = (
        {(stage.table, stage.version) for stage in summary.stages if stage.table.startswith("semantic")}
        for summary in (third, anew)
    )
    assert old <= unneeded
    assert not new & unneeded


def test_one_picture_can_be_followed_from_its_file_to_its_vector(finished: Finished) -> None:
    import hashlib

    store, _ = finished
    images = pl.read_parquet(store.latest("demo", "images").path).filter(pl.col("status") == "ok")
    one = images.row(0, named=True)
    drawn = next(store.scratch("demo").rglob(f"images/{one['url'].rsplit('/', 1)[1]}"))
    assert hashlib.sha256(drawn.read_bytes()).hexdigest() == one["sha256"]
    clip = pl.read_parquet(store.latest("demo", "features/clip").path).filter(pl.col("item_id") == one["item_id"])
    assert clip["content_hash"].item() == hashlib.sha256(one["image"]).hexdigest()


def test_planted_defects_end_as_rows_with_a_reason(finished: Finished) -> None:
    store, summary = finished
    statuses = set(store.read(store.latest("demo", "images"), ["status"])["status"].to_pylist())
    assert {"ok", "no_url", "not_found"} <= statuses
    assert statuses <= {s.value for s in tables.ImageStatus}
    quality = store.read(store.latest("demo", "quality")).to_pylist()
    assert {"items.jsonl", "interactions.csv"} <= {row["source"] for row in quality}
    assert summary.coverage["sentence"] > summary.coverage["clip"] > 0.5


@pytest.fixture
def threads_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the test, CM3_THREADS is 1 and is read as in a new process."""
    before = torch.get_num_threads()
    for answer in (machine.threads, machine.use_threads):
        answer.cache_clear()
    monkeypatch.setenv("CM3_THREADS", "1")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    for answer in (machine.threads, machine.use_threads):
        answer.cache_clear()


def test_cm3_threads_holds_for_training_too_where_nothing_is_left_to_encode(
    finished: Finished, tmp_path: Path, threads_again: None
) -> None:
    store = shutil.copytree(finished[0].root, tmp_path / "store")
    other_seed = small_demo(store).model_copy(update={"trainer": QUICK.model_copy(update={"seed": 1})})
    summary = job.run(parameters=other_seed)
    assert sum(summary.encoded.values()) == 0
    assert torch.get_num_threads() == 1


def test_a_second_run_encodes_nothing_and_finds_everything(finished: Finished, tmp_path: Path) -> None:
    store = shutil.copytree(finished[0].root, tmp_path / "store")
    # The demo's addresses are a store's own: the first run in the copy downloads anew.
    first = job.run(parameters=small_demo(store))
    again = job.run(parameters=small_demo(store))
    assert sum(finished[1].encoded.values()) > 0
    assert sum(first.encoded.values()) == sum(again.encoded.values()) == 0
    assert {s.table for s in again.stages if not s.reused} == set()
    assert again.registered == first.registered


def test_the_report_and_the_summary_are_in_the_store(finished: Finished) -> None:
    _, summary = finished
    assert Path(summary.report).read_text().lstrip().lower().startswith("<!doctype html>")
    assert summary.test["ndcg@20"] > 0
    assert summary.popularity["ndcg@20"] > 0


def test_another_encoder_encodes_its_own_feature_and_nothing_else(finished: Finished, tmp_path: Path) -> None:
    store = shutil.copytree(finished[0].root, tmp_path / "store")
    shorter = {"sentence": {"kind": "sentence", "model": "offline:minilm", "truncate_dim": 64}}
    changed = DemoParameters(**small_demo(store).model_dump() | {"encoders": shorter})
    summary = job.run(parameters=changed)
    assert summary.encoded["sentence"] > 0
    assert summary.encoded["clip"] == summary.encoded["captions"] == summary.encoded["caption"] == 0


def test_nothing_left_after_the_core_fails_and_leaves_what_was_published(finished: Finished, tmp_path: Path) -> None:
    store = Store(shutil.copytree(finished[0].root, tmp_path / "store"))
    before = store.latest("demo", "interactions").version
    with pytest.raises(UserError, match="core_k"):
        job.run(parameters=small_demo(Path(store.root), ingest=IngestConfig(core_k=500)))
    assert store.latest("demo", "interactions").version == before


def test_a_missing_model_is_refused_before_any_table_is_written(tmp_path: Path) -> None:
    missing = {"sentence": {"kind": "sentence", "model": str(tmp_path / "nowhere")}}
    with pytest.raises(UserError, match="nowhere"):
        job.run(parameters=small_demo(tmp_path / "store", encoders=missing))
    assert Store(tmp_path / "store").datasets() == []


def test_a_store_without_a_registry_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begun: list[str] = []
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        job.run(parameters=DemoParameters(store="memory://bucket"), call=lambda name, *_, **__: begun.append(name))
    assert begun == []
