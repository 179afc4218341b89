"""What the follower prepares, and when."""

import shutil
from pathlib import Path

import pytest

from pipeline.registry import versions
from pipeline.serving import prepare
from pipeline.serving.follower import Follower
from pipeline.serving.versions import Versions
from pipeline.store import Store
from tests.support.shop import draw, published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the follower and the serving processes meet."""
    (tmp_path / "serving").mkdir()
    return tmp_path / "serving"


def test_a_second_look_prepares_nothing_anew(own: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(own, folder)
    first = follower.look()
    monkeypatch.setattr(prepare, "prepare", lambda *_: pytest.fail("prepared again"))
    assert follower.look().datasets == first.datasets


def test_the_present_version_and_the_one_before_are_kept(own: Store, folder: Path) -> None:
    follower = Follower(own, folder)
    for number in ("1", "2", "1"):
        versions.promote(own, "shop", number)
        follower.look()
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2


def test_two_preparations_of_one_version_are_the_same_bytes(own: Store, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        state = Follower(own, tmp_path / name).look()
        prepared = tmp_path / name / state.datasets["shop"].folder
        contents.append({path.name: path.read_bytes() for path in prepared.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 10


def test_without_a_champion_the_latest_tables_of_one_training_are_served(store: Store, folder: Path) -> None:
    published(store, draw(seed=1))
    follower = Follower(store, folder)
    before = follower.look().datasets["shop"]
    assert (before.version, before.problem) == ("latest", "")
    newer = published(Store(folder.parent / "elsewhere"), draw(seed=2))
    users = newer["embeddings/users"]
    for suffix in (".json", ".parquet"):
        source = Path(users.path).with_suffix(suffix)
        Path(store.root, "shop/embeddings/users", source.name).symlink_to(source)
    store.put("shop/embeddings/users/latest", users.version.encode())
    half = follower.look().datasets["shop"]
    assert half.folder == before.folder
    assert "of several trainings: one is being published" in half.problem


def test_a_data_set_that_cannot_be_prepared_keeps_no_other_from_being_served(own: Store, folder: Path) -> None:
    published(own, draw(seed=4), dataset="second")
    manifest = next(Path(own.root, "second/item_weights").glob("*.json"))
    manifest.write_text("{")
    state = Follower(own, folder).look()
    assert state.datasets["shop"].folder
    assert not state.datasets["second"].folder
    assert "second/item_weights" in state.datasets["second"].problem


@pytest.mark.parametrize("rest", ["nothing", "lists of another training"])
def test_what_was_taken_out_of_the_store_is_neither_served_nor_kept(own: Store, folder: Path, rest: str) -> None:
    follower, seen = Follower(own, folder), Versions(folder)
    follower.look()
    seen.refresh()
    assert seen.served() == {"shop": "1"}
    shop = Path(own.root, "shop")
    if rest == "nothing":
        shutil.rmtree(shop)
    else:
        for file in [*shop.glob("embeddings/items/*.json"), *shop.glob("item_weights/*.json")]:
            file.unlink()
    state = follower.look()
    seen.refresh()
    assert seen.served() == {}
    assert ("shop" in state.datasets) == (rest != "nothing")
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_a_follower_that_no_longer_looks_is_noticed(own: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Follower(own, folder).look()
    seen = Versions(folder)
    seen.refresh()
    assert seen.problems() == {}
    monkeypatch.setattr("time.time", lambda: seen.state.looked + 31)
    assert "looked at 31 seconds ago" in seen.problems()[""]
