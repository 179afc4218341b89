"""Which versions go with forgotten users, in which order, and what becomes of damaged ones."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import forgotten
from pipeline.registry import forgetting, holding
from pipeline.store import Store
from schemas.forgetting import Forgotten
from schemas.lineage import Lineage, TableVersion
from schemas.tables import INTERACTIONS, RECOMMENDATIONS, features, item_embeddings
from tests.support.published import publish

GONE = forgotten.with_users(Forgotten(salt="00" * 16), ["ann"])


def published(store: Store, users: tuple[str, ...] = ("ann", "bob")) -> dict[str, TableVersion]:
    """Interactions of these users, a feature, a model, vectors, and lists that name nobody."""
    rows = [{"user_id": user, "item_id": "i1", "split": "train"} for user in users]
    tables = {"interactions": publish(store, "interactions", pa.Table.from_pylist(rows, schema=INTERACTIONS))}
    clip = pa.Table.from_pylist([{"item_id": "i1", "content_hash": "h", "embedding": [1.0]}], schema=features(1))
    tables["features/clip"] = publish(store, "features/clip", clip)
    read = {name: version.version for name, version in tables.items()}
    lineage = {"dataset": "shop", "stage": "test", "stage_version": 1, "config": {}}
    file = Path(store.root).parent / "model.safetensors"
    file.write_bytes(b"learned")
    tables["model"] = store.publish_files(Lineage(table="model", inputs=read, **lineage), [file], 7)
    vectors = pa.Table.from_pylist([{"item_id": "i1", "embedding": [1.0]}], schema=item_embeddings(1))
    inputs = read | {"model": tables["model"].version}
    tables["embeddings/items"] = publish(store, "embeddings/items", vectors, inputs=inputs)
    lists = pa.Table.from_pylist([], schema=RECOMMENDATIONS)
    inputs = {name: tables[name].version for name in ("interactions", "model", "embeddings/items")}
    tables["recommendations"] = publish(store, "recommendations", lists, inputs=inputs)
    return tables


def doomed(store: Store) -> list[TableVersion]:
    return holding.doomed(store, "shop", holding.held(store, "shop", GONE)[0])


def test_killed_between_any_two_removals_the_rest_still_goes(store: Store) -> None:
    published(store)
    order = doomed(store)
    assert [version.table for version in order] == ["recommendations", "embeddings/items", "model", "interactions"]
    for number in range(len(order)):
        assert doomed(store) == order[number:]
        store.forget_latest("shop", order[number].table)
        assert store.remove(order[number])
    assert doomed(store) == []
    assert store.tables("shop") == ["features/clip"]


@pytest.mark.parametrize("table", ["interactions", "model"])
def test_what_was_learned_from_a_version_that_is_no_longer_there_goes_too(store: Store, table: str) -> None:
    tables = published(store, users=("bob",))
    assert doomed(store) == []
    store.forget_latest("shop", table)
    store.remove(tables[table])
    assert {version.table for version in doomed(store)} == {
        name for name in tables if name not in ("interactions", "features/clip", table)
    }


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "a cut manifest": lambda folder: cut(folder.with_suffix(".json")),
    "a cut file": lambda folder: cut(next(folder.iterdir())),
    "a lost file": lambda folder: next(folder.iterdir()).unlink(),
    "a lost folder": shutil.rmtree,
    "a cut manifest and a lost folder": lambda folder: (cut(folder.with_suffix(".json")), shutil.rmtree(folder)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_that_may_hold_them_goes_with_all_that_was_made_from_it(store: Store, damage: str) -> None:
    tables = published(store, users=("bob",))
    DAMAGES[damage](Path(tables["interactions"].path))
    gone = doomed(store)
    assert [version.table for version in gone] == ["recommendations", "embeddings/items", "model", "interactions"]
    forgetting.remove(store, "shop", GONE, gone, None)
    left = {path.parent.relative_to(store.root).parts[1] for path in Path(store.root, "shop").rglob("*.parquet/*")}
    assert left == {"features"}
    assert doomed(store) == []


@pytest.mark.parametrize("damage", ["a cut manifest", "a cut file"])
def test_a_damaged_model_goes_and_a_damaged_feature_is_left_alone(store: Store, damage: str) -> None:
    tables = published(store, users=("bob",))
    for name in ("features/clip", "model"):
        DAMAGES[damage](Path(tables[name].path))
    gone = [version.table for version in doomed(store)]
    assert "features/clip" not in gone
    assert ("model" in gone) == (damage == "a cut manifest"), "no row of a model is read, so its file may be whatever"


def test_a_store_that_cannot_be_read_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    published(store)

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(store, "batches", away)
    with pytest.raises(ConnectionError, match="the store is away"):
        doomed(store)
