"""Items that came after training: encoded, embedded by the champion's model, recommended, registered, collected."""

import json
import shutil
from copy import copy as copy_of
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from flows import re_extract
from pipeline.demo import catalogue
from pipeline.registry import garbage, versions
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.model import DESCRIPTION, MODEL, TENSORS
from schemas.re_extract import ReExtractCatalogue, ReExtractSummary, RetrainThreshold
from tests.support.small_demo import FEW
from trainers import fit

pytestmark = pytest.mark.slow
NEW = 20
NAME = "shop"


class Shop:
    """The small demo as a catalogue of files, without the last items at first."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.uri = folder / "raw", folder / "store"
        catalogue.write(self.raw, DemoConfig(items=80, users=200, picture_size=64))
        rows = [json.loads(line) for line in (self.raw / "items.jsonl").read_text().splitlines()]
        self.rows = [row for row in rows if self.is_whole(row, rows)]
        self.new = [row["id"] for row in self.rows[-NEW:]]
        self.choices = pl.read_csv(self.raw / "interactions.csv").filter(pl.col("item_id").is_in(self.new).not_())
        self.kind = {row["id"]: row["categories"][-1] for row in self.rows}

    def is_whole(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
        """Whether its words and its picture are its own and can be read."""
        alike = [other for other in rows if row["id"] == other["id"] or row["title"] == other["title"]]
        try:
            Image.open(self.raw / str(row["image"])).load()
        except OSError:
            return False
        return len(alike) == 1 and row["image"] == f"images/{row['id']}.jpg"

    @property
    def store(self) -> Store:
        return Store(self.uri)

    def night(self, items: int, share: float = 0.9, **changes: object) -> ReExtractSummary:
        """Re-extract the first `items` items; `share` of them must move for another training."""
        (self.raw / "items.jsonl").write_text("\n".join(map(json.dumps, self.rows[:items])))
        self.choices.write_csv(self.raw / "interactions.csv")
        parameters = ReExtractCatalogue(
            raw=str(self.raw),
            name=NAME,
            store=str(self.uri),
            models="offline",
            features=("sentence", "clip"),
            item_columns={"item_id": "id", "image_url": "image"},
            trainer={"max_epochs": 15, "device": "cpu", "top_k": 10, "item_weights": FEW},
            **changes,
        )
        return re_extract.run(parameters=parameters, retrain=RetrainThreshold(items=share, interactions=0.9))

    def rows_of(self, table: str, at: str = "champion") -> pl.DataFrame:
        return pl.read_parquet(versions.resolve(self.store, f"{NAME}/{table}@{at}").path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The tests of this file are one story and run in their order."""
    made = Shop(tmp_path_factory.mktemp("embed"))
    made.night(len(made.rows) - NEW)
    return made


def test_a_training_publishes_its_model_as_a_version_without_pickle(shop: Shop) -> None:
    model = versions.resolve(shop.store, f"{NAME}/{MODEL}@champion")
    assert sorted(path.name for path in Path(model.path).iterdir()) == sorted(model.files) == [DESCRIPTION, TENSORS]
    shop.store.verify(model)
    embeddings = versions.resolve(shop.store, f"{NAME}/embeddings/items@champion")
    assert {k: v for k, v in model.lineage.items() if k not in ("cm3.schema", "cm3.created")} == {
        k: v for k, v in embeddings.lineage.items() if k not in ("cm3.schema", "cm3.created")
    }


def test_twenty_new_items_are_encoded_and_recommended_without_an_epoch(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an epoch ran")

    monkeypatch.setattr(fit, "_train_epoch", refuse)
    summary = shop.night(len(shop.rows))
    assert not summary.trained
    assert summary.encoded == {"sentence": NEW, "clip": NEW}
    assert summary.decision.endswith("20 items and 0 users that came after training have their vectors from its model.")
    assert summary.registered == "2 (champion)"
    before, after = (dict(shop.rows_of("embeddings/items", at).iter_rows()) for at in ("1", "champion"))
    assert set(after) - set(before) == set(shop.new)
    assert {item: after[item] for item in before} == before
    assert shop.rows_of("embeddings/users", "1").equals(shop.rows_of("embeddings/users"))
    taste = shop.choices.with_columns(kind=pl.col("item_id").replace_strict(shop.kind, default=None))
    share = (
        taste.group_by("user_id", "kind").len().with_columns(share=pl.col("len") / pl.col("len").sum().over("user_id"))
    )
    shown = shop.rows_of("recommendations").filter(pl.col("item_id").is_in(shop.new))
    shown = shown.with_columns(kind=pl.col("item_id").replace_strict(shop.kind)).join(share, on=["user_id", "kind"])
    assert len(shown.filter(pl.col("share") >= 0.5)) > 0
    assert shown.filter(pl.col("share") >= 0.5)["because"].list.len().max() > 0


def test_the_same_night_again_computes_nothing_and_registers_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers import cm3

    monkeypatch.setattr(cm3, "embed", None)
    summary = shop.night(len(shop.rows))
    assert all(stage.reused for stage in summary.stages)
    assert summary.registered == "2 (champion)"
    assert len(versions.registered(shop.store, NAME)) == 2


def test_a_later_night_adds_to_the_training_so_that_its_rows_never_change(shop: Shop) -> None:
    item, user = shop.new[0], shop.choices["user_id"][0]
    newcomer = shop.choices.filter(user_id=user).with_columns(user_id=pl.lit("U9999"))
    bought = newcomer.head(1).with_columns(item_id=pl.lit(item))
    choices = shop.choices
    shop.choices = pl.concat([choices, newcomer, bought])
    summary = shop.night(len(shop.rows))
    shop.choices = choices
    assert summary.registered == "3 (champion)"
    assert "20 items and 1 users" in summary.decision
    first, last = (dict(shop.rows_of("embeddings/items", at).iter_rows()) for at in ("1", "3"))
    assert {known: last[known] for known in first} == first
    assert last[item] != dict(shop.rows_of("embeddings/items", "2").iter_rows())[item]
    assert shop.rows_of("recommendations").filter(user_id="U9999").height == 10


def test_a_version_belongs_to_the_training_of_its_model(shop: Shop) -> None:
    first, *later = versions.registered(shop.store, NAME)
    for version in later:
        assert (version.validation_ndcg, version.validation_set, version.run_id) == (
            first.validation_ndcg,
            first.validation_set,
            first.run_id,
        )
        assert [version.tables[name] == first.tables[name] for name in (MODEL, "metrics", "epochs")] == [True] * 3
        assert version.reason.startswith("the champion's model, validation NDCG@20")


@pytest.mark.parametrize("damage", ["damaged", "gone"])
def test_a_damaged_model_is_one_error_and_what_was_published_stays_readable(
    shop: Shop, tmp_path: Path, damage: str
) -> None:
    copy = copy_of(shop)
    copy.uri = Path(shutil.copytree(shop.uri, tmp_path / "copy"))
    file = Path(versions.resolve(copy.store, f"{NAME}/{MODEL}@champion").path) / TENSORS
    if damage == "damaged":
        file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    else:
        file.unlink()
    with pytest.raises(UserError, match=f"{TENSORS} does not match its manifest"):
        copy.night(len(copy.rows) - 3)
    assert versions.find(versions.registered(copy.store, NAME), NAME, "champion").number == 3
    assert len(copy.rows_of("embeddings/items")) == len(shop.rows_of("embeddings/items"))


def test_garbage_collection_keeps_what_rows_were_added_to_and_removes_a_model_with_its_version(shop: Shop) -> None:
    training = versions.registered(shop.store, NAME)[0]
    for fewer in (1, 2):
        shop.night(len(shop.rows) - fewer)
    garbage.remove(shop.store, garbage.unneeded(shop.store, NAME, keep=1))
    night = shop.night(len(shop.rows) - 3)
    assert night.registered == "6 (champion)"
    assert not night.trained, "the training's tables are there to be compared with and added to"
    for fewer in (4, 5):  # until `rollback` does not need them any more
        assert shop.night(len(shop.rows) - fewer, share=0.0, registry={"max_metric_loss": 1}).trained
    removed = garbage.remove(shop.store, garbage.unneeded(shop.store, NAME, keep=1))
    for table in (MODEL, "embeddings/items", "embeddings/users", "item_weights"):
        assert (table, training.tables[table]) in {(version.table, version.version) for version in removed}
    folder = Path(shop.store.root, NAME, MODEL)
    left = {version.version for version in shop.store.versions(NAME, MODEL)}
    assert {path.stem for path in folder.iterdir()} - {"latest"} == left
    assert len(left) == 2
