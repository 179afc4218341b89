"""Aliases and numbers resolve to Parquet, and `champion` moves only to whole versions and back."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from pipeline.registry import client, versions
from pipeline.store import Store
from schemas.errors import UserError
from tests.pipeline.registry.conftest import Shop
from tests.support.registered import register, trained


def test_references_resolve_by_alias_number_version_and_latest(shop: Shop) -> None:
    store, _, tables = shop
    items = [t["embeddings/items"].version for t in tables]
    for at, expected in (("@champion", items[2]), ("@challenger", items[1]), ("@1", items[0]), ("", items[2])):
        assert versions.resolve(store, f"shop/embeddings/items{at}").version == expected
    assert versions.resolve(store, f"shop/embeddings/items@{items[0][:8]}").version == items[0]
    assert versions.resolve(store, "shop/metrics@champion").version == tables[2]["metrics"].version


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("shop", "is not DATASET/TABLE"),
        ("shop/embeddings/items@best", r"no registered version 'best'; registered: 1, 2 \(challenger\), 3 \(champ"),
        ("shop/captions@champion", "was made without 'captions'"),
        ("nowhere/items", "Published data sets: shop"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(shop: Shop, reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        versions.resolve(shop[0], reference)


def test_the_champion_costs_one_request(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, tables = shop
    for more in ("get_registered_model", "get_model_version", "search_model_versions"):
        monkeypatch.setattr(MlflowClient, more, None)
    champion = versions.champion(store, "shop")
    assert champion is not None
    assert champion.tables["embeddings/items"] == tables[2]["embeddings/items"].version


def test_without_versions_or_without_the_alias_there_is_no_champion(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert versions.champion(store, "shop") is None
    register(store, trained(store, seed=0, ndcg=0.3))
    assert versions.champion(store, "shop") is not None
    client.connect(store).delete_registered_model_alias("shop", "champion")
    assert versions.champion(store, "shop") is None


def test_promote_and_rollback_move_the_alias_and_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = register(store, trained(store, seed=0, ndcg=0.3))
    second = register(store, trained(store, seed=1, ndcg=0.2))
    assert versions.promote(store, "shop", "challenger").number == second.number
    assert versions.promote(store, "shop", "champion").number == second.number  # once more changes nothing
    assert [v.alias for v in versions.registered(store, "shop")] == ["", "champion"]
    assert versions.rollback(store, "shop").number == first.number
    assert versions.resolve(store, "shop/embeddings/items@champion").version == first.tables["embeddings/items"]
    with pytest.raises(UserError, match="no champion before"):
        versions.rollback(store, "shop")


def test_a_data_set_without_a_registered_version_cannot_be_rolled_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shop has no registered version yet"):
        versions.rollback(Store(tmp_path), "shop")


def test_a_damaged_version_is_not_promoted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    register(store, trained(store, seed=0, ndcg=0.3))
    register(store, trained(store, seed=1, ndcg=0.2))
    path = Path(versions.resolve(store, "shop/embeddings/items@challenger").path) / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="does not match its manifest"):
        versions.promote(store, "shop", "2")
    assert versions.resolve(store, "shop/embeddings/items@champion").version != path.parent.stem


@pytest.mark.parametrize("kind", [int, str])
def test_promoting_the_challenger_ends_its_alias_whatever_mlflow_answers_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    store = Store(tmp_path)
    register(store, trained(store, seed=0, ndcg=0.3))
    register(store, trained(store, seed=1, ndcg=0.2))
    answer = property(lambda model: {alias: kind(number) for alias, number in model._aliases.items()})
    monkeypatch.setattr(RegisteredModel, "aliases", answer)
    versions.promote(store, "shop", "2")
    assert client.connect(store).get_registered_model("shop").aliases == {"champion": kind(2)}


def test_rollback_passes_over_what_is_gone_or_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    entries = [register(store, trained(store, seed=seed, ndcg=0.2 + seed / 10)) for seed in range(4)]
    gone, damaged = (store.get("shop", "embeddings/items", entries[n].tables["embeddings/items"]) for n in (2, 1))
    shutil.rmtree(gone.path)
    (Path(damaged.path) / "part-00000.parquet").write_bytes(b"")
    assert versions.rollback(store, "shop").number == 1
    assert "passed over shop version 3" in caplog.text
    with pytest.raises(UserError, match="no champion before the present one"):
        versions.rollback(store, "shop")


def test_versions_that_somebody_else_registered_are_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = register(store, trained(store, seed=0, ndcg=0.3))
    mlflow = client.connect(store)
    number = mlflow.create_model_version("shop", source="/tmp/theirs").version
    mlflow.create_model_version("shop", source="x", tags={"table.embeddings/items": "0", "items": "many"})
    assert versions.registered(store, "shop") == [first]
    with pytest.raises(UserError, match=f"no registered version '{number}'; registered: 1"):
        versions.promote(store, "shop", str(number))
    assert register(store, trained(store, seed=1, ndcg=0.3)).alias == "champion"
    assert versions.rollback(store, "shop").number == 1


@pytest.mark.parametrize("dataset", ["../x", "a:b", "x/../y"])
def test_a_name_that_no_data_set_can_have_is_refused_before_the_registry_is_asked(store: Store, dataset: str) -> None:
    for ask in (versions.registered, versions.rollback, versions.previous):
        with pytest.raises(UserError, match="is no name in a store"):
            ask(store, dataset)
    assert not Path(store.root, "_mlflow").exists()
