"""`re-extract` finds what changed, encodes only that, and trains again only from the stated threshold on."""

import json
from pathlib import Path

import polars as pl
import pytest

from flows import job, re_extract
from pipeline.encoders import load
from pipeline.store import Store
from schemas.errors import UserError
from schemas.re_extract import Changes, ReExtractCatalogue, ReExtractSummary, RetrainThreshold
from tests.support.published import jpeg

pytestmark = pytest.mark.slow
ITEMS = 40
USERS = 24
WORDS = ("lamp", "chair", "rope", "kettle", "scarf", "drum", "clock", "boot")


class Shop:
    """A catalogue of one's own on disk, whose owner edits it between runs."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.store = folder / "shop", folder / "store"
        self.raw.mkdir()
        self.titles = {f"i{n:02d}": f"A {WORDS[n % 8]} of the {n}th kind" for n in range(ITEMS)}
        self.chosen = [
            (f"u{u:02d}", f"i{(u * 3 + j * (1 + u % 3)) % ITEMS:02d}") for u in range(USERS) for j in range(10)
        ]
        self.save()

    def save(self) -> None:
        lines = [json.dumps({"item_id": i, "title": title}) for i, title in self.titles.items()]
        (self.raw / "items.jsonl").write_text("\n".join(lines))
        rows = [f"{user},{item},{second}" for second, (user, item) in enumerate(self.chosen) if item in self.titles]
        (self.raw / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))

    def re_extract(
        self,
        features: tuple[str, ...] = ("sentence",),
        images: dict[str, str] | None = None,
        **retrain: float,
    ) -> ReExtractSummary:
        parameters = ReExtractCatalogue(
            raw=str(self.raw),
            name="shop",
            store=str(self.store),
            models="offline",
            features=features,
            images=images or {},
            ingest={"core_k": 1},
            trainer={"max_epochs": 1, "dim": 8, "device": "cpu"},
        )
        return re_extract.run(parameters=parameters, retrain=RetrainThreshold(**retrain))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The tests of this file are one story and run in their order."""
    return Shop(tmp_path_factory.mktemp("re-extract"))


def test_the_first_re_extraction_encodes_everything_and_trains(shop: Shop) -> None:
    summary = shop.re_extract()
    assert summary.since_last_run is None
    assert summary.encoded == {"sentence": ITEMS}
    assert summary.trained
    assert summary.registered.startswith("1 ")


def test_an_unchanged_catalogue_loads_no_model_and_keeps_every_version(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load, "load", refuse)
    summary = shop.re_extract(items=0, interactions=0)
    assert sum(summary.encoded.values()) == 0
    assert not summary.trained
    assert all(stage.reused for stage in summary.stages)
    assert summary.since_last_run is not None
    assert summary.since_last_run.unchanged == ITEMS
    assert summary.since_last_run.item_share == summary.since_last_run.interaction_share == 0


def test_new_changed_and_vanished_items_are_found_and_only_they_are_encoded(shop: Shop) -> None:
    before = pl.read_parquet(Store(shop.store).latest("shop", "embeddings/items").path)
    shop.titles["i03"] = "A violin with a bow"
    shop.titles["i99"] = "A wooden sledge"
    shop.chosen.append(("u00", "i99"))
    del shop.titles["i07"]
    shop.save()
    summary = shop.re_extract(items=0.5, interactions=0.5)
    changes = summary.since_last_run
    assert changes is not None
    assert (changes.new, changes.changed, changes.vanished, changes.unchanged) == (1, 1, 1, ITEMS - 2)
    assert changes.new_interactions == 1
    assert changes.vanished_interactions == len([item for _, item in shop.chosen if item == "i07"]) > 0
    assert summary.encoded == {"sentence": 2}
    assert not summary.trained
    assert summary.decision.startswith("Not trained: 7.50% of the items")
    store = Store(shop.store)
    after = pl.read_parquet(store.latest("shop", "embeddings/items").path)
    assert set(after["item_id"]) == set(shop.titles)
    assert after.join(before, on="item_id").select(same=pl.col("embedding") == pl.col("embedding_right"))["same"].all()
    assert summary.registered == "2 (champion)"
    graph = pl.read_parquet(store.latest("shop", "similarity").path)
    assert set(graph["item_id"]) == set(shop.titles)


def test_small_changes_add_up_until_the_threshold_since_the_last_training_is_passed(shop: Shop) -> None:
    shop.titles["i05"] = "A tent for two"
    shop.save()
    summary = shop.re_extract(items=0.09, interactions=0.5)
    assert summary.since_last_run is not None
    assert summary.since_training is not None
    assert summary.since_last_run.changed == 1
    assert summary.since_training.changed == 2
    assert summary.trained  # (1 new + 2 changed + 1 vanished) of 40
    assert summary.decision.startswith("Trained: 10.00% of the items")
    store = Store(shop.store)
    assert set(pl.read_parquet(store.latest("shop", "embeddings/items").path)["item_id"]) == set(shop.titles)
    after = shop.re_extract(items=0.09)
    assert after.since_training is not None
    assert after.since_training.item_share == 0


def test_where_garbage_collection_took_the_last_trainings_tables_it_trains(shop: Shop) -> None:
    store = Store(shop.store)
    stored = job.previous_tables(store, "shop")
    assert stored is not None
    changes = Changes(
        new=0, changed=0, vanished=0, unchanged=1, new_interactions=0, vanished_interactions=0, kept_interactions=1
    )
    assert re_extract.decide(store, stored, stored, changes, RetrainThreshold())[0] is False
    assert re_extract.decide(store, None, stored, None, RetrainThreshold())[0] is True
    other = {name: version for name, version in stored.items() if name != "features/sentence"}
    assert re_extract.decide(store, stored, other, changes, RetrainThreshold()) == (
        True,
        "Trained: other features or encoders than in the last training.",
    )


def test_galleries_are_averaged_on_demand_and_a_changed_further_picture_is_a_changed_item(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    lines = [json.loads(line) for line in (shop.raw / "items.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line |= {"image_url": f"{number}.jpg", "gallery_urls": [f"{number}b.jpg"] if number < 3 else []}
        for name in (line["image_url"], *line["gallery_urls"]):
            (shop.raw / name).write_bytes(jpeg((6 * number, 250, 40 * name.count("b"))))
    (shop.raw / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def run(pictures: str) -> ReExtractSummary:
        return shop.re_extract(features=("vision",), images={"pictures": pictures}, items=0.5, interactions=0.5)

    main, mean = run("main"), run("mean")
    assert (main.encoded, mean.encoded) == ({"vision": ITEMS}, {"vision": 3})
    assert {stage.table for stage in mean.stages} - {stage.table for stage in main.stages} == {"gallery"}
    assert mean.decision == "Trained: other features or encoders than in the last training."
    assert next(stage.reused for stage in mean.stages if stage.table == "images")
    (shop.raw / "1b.jpg").write_bytes(jpeg((1, 2, 3)))
    after = run("mean")
    assert after.since_last_run is not None
    assert (after.since_last_run.changed, after.encoded) == (1, {"vision": 1})


def test_a_negative_threshold_is_refused_by_name(shop: Shop) -> None:
    with pytest.raises(UserError, match=r"retrain.items.*greater than or equal to 0"):
        re_extract.catalogue.fn(raw="shop", retrain={"items": -1})
