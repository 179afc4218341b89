"""Garbage collection keeps what aliases name, the latest and the last n, and nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.tally import Quality
from pipeline.registry import client, garbage, promotion, versions
from pipeline.store import Store
from schemas.errors import UserError
from tests.support.actors import Actor, Stop
from tests.support.published import publish
from tests.support.registered import register, trained


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four registered versions; the first is champion, the last challenger."""
    store = Store(tmp_path_factory.mktemp("aged"))
    for seed, ndcg in enumerate((0.4, 0.3, 0.2, 0.1)):
        register(store, trained(store, seed=seed, ndcg=ndcg))
    return store


def test_what_aliases_name_and_the_last_ones_stay(aged: Store) -> None:
    unneeded = garbage.unneeded(aged, "shop", keep=1)
    registered = versions.registered(aged, "shop")
    tables = {"embeddings/items", "metrics", "epochs", "features/clip", "interactions"}
    assert {(v.table, v.version) for v in unneeded} == {(t, registered[i].tables[t]) for i in (1, 2) for t in tables}


def test_what_rollback_would_return_to_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(4):
        register(store, trained(store, seed=seed, ndcg=0.2 + seed / 10))
    garbage.remove(store, garbage.unneeded(store, "shop", keep=1))
    assert len(store.versions("shop", "embeddings/items")) == 2
    assert versions.rollback(store, "shop").number == 3


def test_a_version_that_a_run_made_the_latest_in_between_stays(aged: Store, tmp_path: Path) -> None:
    store = Store(shutil.copytree(aged.root, tmp_path / "copy"))
    unneeded = garbage.unneeded(store, "shop", keep=1)
    again = trained(store, seed=1, ndcg=0.3)
    removed = garbage.remove(store, unneeded)
    assert {(v.table, v.version) for v in unneeded} - {(v.table, v.version) for v in removed} == {
        (v.table, v.version) for v in again.values()
    }
    assert all(store.latest("shop", table) for table in store.tables("shop"))


def test_looking_removes_nothing(aged: Store) -> None:
    garbage.unneeded(aged, "shop", keep=1)
    assert len(aged.versions("shop", "embeddings/items")) == 4


def test_removal_deletes_just_those(aged: Store, tmp_path: Path) -> None:
    store = Store(shutil.copytree(aged.root, tmp_path / "copy"))
    unneeded = garbage.unneeded(store, "shop", keep=1)
    garbage.remove(store, unneeded)
    assert garbage.unneeded(store, "shop", keep=1) == []
    assert len(store.versions("shop", "embeddings/items")) == 2
    store.verify(versions.resolve(store, "shop/embeddings/items@champion"))
    assert not any(Path(version.path).exists() for version in unneeded)


def test_of_quality_stays_also_the_version_that_the_last_one_adds_to(store: Store) -> None:
    published = []
    for run in range(2):
        tally = Quality()
        tally.add("items.csv", "title_html", "repaired", 1 + run)
        ingested = publish(store, "quality", tally.table())
        tally.add("images", "picture_tiny", "kept")
        added = publish(store, "quality", tally.table(), inputs={"quality": ingested.version})
        published.append({ingested.version, added.version})
    unneeded = garbage.unneeded(store, "shop", keep=1)
    assert {version.version for version in unneeded} == published[0]


def test_keeping_none_is_refused(aged: Store) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        garbage.unneeded(aged, "shop", keep=0)


def test_a_registry_that_is_not_this_stores_is_refused(
    aged: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.make_database(tmp_path / "another.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    with pytest.raises(UserError, match="the registry knows none of them"):
        garbage.unneeded(aged, "shop", keep=1)


def promote_slowly(stop: Stop, uri: str, number: str) -> int:
    """Promote a version, and stop after its files were compared with their checksums."""
    crown = versions.crown
    versions.crown = lambda *arguments: (stop(), crown(*arguments))[1]  # type: ignore[func-returns-value]
    return versions.promote(Store(uri), "shop", number).number


def register_slowly(stop: Stop, uri: str) -> str:
    """Register a version that is better than the champion, and stop after it was judged."""
    store, choose = Store(uri), promotion.choose

    def chosen(*arguments: Any, **named: Any) -> tuple[str, str]:
        judgement = choose(*arguments, **named)
        stop()
        return judgement

    promotion.choose = chosen
    return register(store, trained(store, seed=9, ndcg=0.9)).alias


def promote(_: Stop, uri: str, number: str) -> int:
    return versions.promote(Store(uri), "shop", number).number


def collect(_: Stop, uri: str) -> int:
    """What `cm3 gc shop --keep 1 --delete` does."""
    store = Store(uri)
    with store.locked("shop"):
        return len(garbage.remove(store, garbage.unneeded(store, "shop", keep=1)))


@pytest.mark.slow
def test_what_is_being_promoted_is_not_collected_meanwhile(aged: Store, tmp_path: Path) -> None:
    store = Store(shutil.copytree(aged.root, tmp_path / "copy"))
    promotion_ = Actor(promote_slowly, store.uri, "2").reach()
    collection = Actor(collect, store.uri)
    collection.until_it_waits()
    promotion_.go_on()
    assert promotion_.result() == 2
    assert collection.result() > 0
    store.verify(versions.resolve(store, "shop/embeddings/items@champion"))


@pytest.mark.slow
def test_nobody_is_promoted_between_a_judgement_and_its_alias(aged: Store, tmp_path: Path) -> None:
    store = Store(shutil.copytree(aged.root, tmp_path / "copy"))
    registration = Actor(register_slowly, store.uri).reach()
    operator = Actor(promote, store.uri, "3")
    operator.until_it_waits()
    registration.go_on()
    assert registration.result() == "champion"
    assert operator.result() == 3  # asked for last, so it is the champion
    champions = [v.number for v in versions.registered(store, "shop") if v.alias == "champion"]
    assert champions == [3]
    assert versions.rollback(store, "shop").number == 5
