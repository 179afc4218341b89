"""Tables become row numbers; what cannot be trained on is refused by name."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from schemas.errors import UserError
from schemas.training import TrainingTables
from tests.support.world import World, draw_world
from trainers.data import load


def test_items_are_all_that_have_an_interaction_or_a_feature_in_order_of_id(small_world: Callable[..., World]) -> None:
    world = draw_world()
    world.vectors["text"]["z-new"] = np.ones(7, np.float32)
    world.vectors["text"]["z-none"] = None
    world.events.append(("u000", "a-bare", "train"))
    written = world.write(Path(small_world().interactions).parent.parent / "more")
    dataset = load(written.tables)
    assert dataset.items == sorted(dataset.items)
    assert {"z-new", "a-bare"} <= set(dataset.items)
    assert "z-none" not in dataset.items
    row = dataset.items.index("z-new")
    assert dataset.features["text"].present[row]
    assert not dataset.features["image"].present[row]


def test_vectors_stand_beside_their_items(world: World) -> None:
    dataset = load(world.tables)
    for name, vectors in world.vectors.items():
        for item, vector in vectors.items():
            row = dataset.items.index(item)
            assert dataset.features[name].present[row] == (vector is not None)
            np.testing.assert_array_equal(dataset.features[name].matrix[row], vector if vector is not None else 0)


def test_the_order_of_rows_and_files_does_not_matter(tmp_path: Path) -> None:
    world, shuffled = draw_world(), draw_world()
    np.random.default_rng(1).shuffle(shuffled.events)
    shuffled.vectors = {name: dict(reversed(v.items())) for name, v in reversed(shuffled.vectors.items())}
    a = load(world.write(tmp_path / "a").tables)
    b = load(shuffled.write(tmp_path / "b").tables)
    assert a.fingerprint == b.fingerprint


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    base = load(draw_world().write(tmp_path / "a").tables)
    changed = draw_world()
    vector = changed.vectors["text"]["i003"]
    assert vector is not None
    vector[0] += 1e-3
    assert load(changed.write(tmp_path / "b").tables).fingerprint != base.fingerprint
    other = draw_world()
    other.events[5] = (*other.events[5][:2], "test")
    assert load(other.write(tmp_path / "c").tables).fingerprint != base.fingerprint


def test_tables_are_read_by_uri(world: World) -> None:
    memory = fsspec.filesystem("memory")
    uris = {}
    for name, path in {"interactions": world.interactions, **world.features}.items():
        memory.pipe(f"/world/{name}/part-0.parquet", next(Path(path).glob("*.parquet")).read_bytes())
        uris[name] = f"memory://world/{name}"
    features = {name: uris[name] for name in world.features}
    remote = load(TrainingTables(interactions=uris["interactions"], features=features))
    assert remote.fingerprint == load(world.tables).fingerprint


def test_a_pair_in_two_splits_stays_in_training_alone(tmp_path: Path) -> None:
    world = draw_world()
    user, item, _ = next(event for event in world.events if event[2] == "train")
    world.events.append((user, item, "test"))
    dataset = load(world.write(tmp_path).tables)
    pair = [dataset.users.index(user), dataset.items.index(item)]
    assert pair in dataset.train.tolist()
    assert pair not in dataset.test.tolist()


def test_a_zero_vector_counts_as_absent(tmp_path: Path) -> None:
    world = draw_world()
    world.vectors["text"]["i003"] = np.zeros(7, np.float32)
    dataset = load(world.write(tmp_path).tables)
    assert not dataset.features["text"].present[dataset.items.index("i003")]


def _nan(world: World) -> None:
    world.vectors["text"]["i003"] = np.full(7, np.nan, np.float32)


def _split(world: World) -> None:
    world.events.append(("u000", "i000", "holdout"))


def _one_user(world: World) -> None:
    world.events = [event for event in world.events if event[0] == "u000"]


def _one_pair(world: World) -> None:
    world.events = [("u000", "i000", "train"), ("u001", "i001", "valid")]


def _one_item(world: World) -> None:
    world.events = [("u000", "i000", "train"), ("u001", "i000", "train")]
    world.vectors = {name: {"i000": v["i000"]} for name, v in world.vectors.items()}


def _nothing(world: World) -> None:
    world.events = []


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (_nan, ["text", "i003"]),
        (_split, ["split", "holdout"]),
        (_one_user, ["users", "found 1"]),
        (_one_pair, ["training interactions", "found 1"]),
        (_one_item, ["items", "found 1"]),
        (_nothing, ["found 0"]),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[World], None], names: list[str]
) -> None:
    world = draw_world()
    spoil(world)
    with pytest.raises(UserError) as refusal:
        load(world.write(tmp_path).tables)
    assert all(name in str(refusal.value) for name in names)


def test_a_table_that_is_not_there_or_not_parquet_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "part.parquet").write_bytes(b"PAR1 no")
    for path in (tmp_path / "absent", tmp_path / "bad"):
        with pytest.raises(UserError, match=str(path)):
            load(TrainingTables(interactions=str(path), features=world.features))
        with pytest.raises(UserError, match=str(path)):
            load(TrainingTables(interactions=world.interactions, features={"text": str(path)}))


def test_columns_of_another_table_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="split"):
        load(TrainingTables(interactions=world.features["text"], features=world.features))
    with pytest.raises(UserError, match="embedding"):
        load(TrainingTables(interactions=world.interactions, features={"text": world.interactions}))
