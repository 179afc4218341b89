"""Nights of a shop that brings its own vectors: another file of them is no other encoder."""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import re_extract
from pipeline.registry import versions
from pipeline.store import Store
from schemas.re_extract import ReExtractCatalogue, ReExtractSummary, RetrainThreshold
from tests.support import drawn_shop

pytestmark = pytest.mark.slow
FIRST = 180


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file are one story and run in their order."""
    folder = tmp_path_factory.mktemp("imported")
    drawn_shop.write(folder / "shop")
    assert night(folder, FIRST).trained
    return folder


def night(folder: Path, items: int, width: int = 16, seed: str = "") -> ReExtractSummary:
    """Re-extract the first items, each with a vector that follows from its id, the width and the seed."""
    catalogue = folder / "all.jsonl"
    if not catalogue.exists():
        (folder / "shop" / "items.jsonl").rename(catalogue)
    lines = catalogue.read_text().splitlines()[:items]
    (folder / "shop" / "items.jsonl").write_text("\n".join(lines))
    ids = [json.loads(line)["item_id"] for line in lines]
    seeds = (hashlib.sha256(f"{seed}{item_id}".encode()).digest() for item_id in ids)
    rows = [np.random.default_rng(list(digest)).standard_normal(width) for digest in seeds]
    np.save(folder / "vectors.npy", np.array(rows, np.float32))
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    vectors = {"path": str(folder / "vectors.npy"), "ids": str(folder / "ids.txt"), "format": "npy"}
    more = {"features": (), "imported": {"text": vectors}, "trainer": drawn_shop.QUICK}
    parameters = ReExtractCatalogue(**drawn_shop.parameters(folder / "shop", folder / "store", **more))
    return re_extract.run(parameters=parameters, retrain=RetrainThreshold(items=0.5, interactions=0.5))


def test_new_items_in_a_longer_file_are_embedded_without_a_training(folder: Path) -> None:
    store = Store(folder / "store")
    before = pl.read_parquet(store.latest("shop", "embeddings/items").path)
    summary = night(folder, 200)
    assert (summary.trained, summary.since_training.new, summary.since_training.changed) == (False, 20, 0)
    after = pl.read_parquet(store.latest("shop", "embeddings/items").path)
    assert len(after) == len(before) + 20
    assert after.join(before, on=after.columns, how="semi").height == len(before)


def test_another_vector_of_an_item_is_another_content_of_it(folder: Path) -> None:
    summary = night(folder, 200, seed="another encoder of the same width")
    assert (summary.trained, summary.since_training.changed) == (True, FIRST)


def test_a_champion_that_was_trained_on_other_vectors_is_not_applied(folder: Path) -> None:
    store = Store(folder / "store")
    trained = pl.read_parquet(store.latest("shop", "embeddings/items").path)
    versions.promote(store, "shop", "1")
    assert not night(folder, 190, seed="another encoder of the same width").trained
    after = pl.read_parquet(store.latest("shop", "embeddings/items").path)
    assert after.join(trained, on=after.columns, how="semi").height == len(after) == 190


def test_vectors_of_another_width_are_another_encoder(folder: Path) -> None:
    assert "other features or encoders" in night(folder, 200, width=24).decision
