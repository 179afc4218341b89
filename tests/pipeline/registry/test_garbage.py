"""Garbage collection keeps aliases, the latest and the last n, and nothing else."""

from pathlib import Path

import pytest

from pipeline.registry import garbage, versions
from pipeline.store import Store
from schemas.errors import UserError
from tests.pipeline.registry.test_stage import register, trained


@pytest.fixture
def aged(tmp_path: Path) -> Store:
    """Four registered versions; the first is champion, the last challenger."""
    store = Store(tmp_path / "store")
    for seed, ndcg in enumerate((0.4, 0.3, 0.2, 0.1)):
        register(store, trained(store, seed=seed, ndcg=ndcg))
    return store


def test_what_aliases_name_and_the_last_ones_stay(aged: Store) -> None:
    doomed = garbage.unneeded(aged, "shop", keep=1)
    registered = versions.registered(aged, "shop")
    tables = {"embeddings/items", "metrics", "epochs", "features/clip", "interactions"}
    assert {(v.table, v.version) for v in doomed} == {(t, registered[i].tables[t]) for i in (1, 2) for t in tables}


def test_removal_deletes_just_those(aged: Store) -> None:
    doomed = garbage.unneeded(aged, "shop", keep=1)
    garbage.remove(aged, doomed)
    assert garbage.unneeded(aged, "shop", keep=1) == []
    assert len(aged.versions("shop", "embeddings/items")) == 2
    aged.verify(versions.resolve(aged, "shop/embeddings/items@champion"))
    assert not any(Path(version.path).exists() for version in doomed)


def test_looking_removes_nothing(aged: Store) -> None:
    garbage.unneeded(aged, "shop", keep=1)
    assert len(aged.versions("shop", "embeddings/items")) == 4


def test_keeping_none_is_refused(aged: Store) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        garbage.unneeded(aged, "shop", keep=0)


def test_a_registry_that_is_not_this_stores_is_refused(
    aged: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    with pytest.raises(UserError, match="the registry knows none of them"):
        garbage.unneeded(aged, "shop", keep=1)
