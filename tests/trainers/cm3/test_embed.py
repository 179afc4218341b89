"""A trained model applied to later data: new rows by its rule, old rows bit by bit, no epoch."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from schemas.errors import UserError
from schemas.model import DESCRIPTION, TENSORS, EmbeddingTables, ModelTables
from schemas.training import CM3Config, TrainingResult, TrainingTables
from tests.support.actors import Actor, Stop
from tests.support.world import World, draw_world
from trainers import cm3
from trainers.cm3.deliver import vectors_of
from trainers.cm3.trained import load_model
from trainers.data import load

CONFIG = CM3Config(dim=8, max_epochs=4, batch_size=256, learning_rate=5e-3, neighbors=5, device="cpu")
NEW_ITEMS, NEW_USERS = ["n-bare", "n-bought", "n-twin"], ["v-new"]


def train(world: World, output: Path, **changes: Any) -> TrainingResult:
    return cm3.run(tables=world.tables, output=output, config=CONFIG.model_copy(update=changes))


def embed(world: World, trained: TrainingResult, output: Path) -> dict[str, str]:
    published = ModelTables(model=trained.trained, **{n: trained.files[n] for n in ("items", "users", "item_weights")})
    return cm3.embed(tables=EmbeddingTables(today=world.tables, trained=published), output=output, device="cpu")


def vectors(path: str) -> dict[str, list[float]]:
    return dict(pl.read_parquet(path).iter_rows())


def later(folder: Path) -> World:
    """The same shop later: three more items, one of them without content, another one bought; one more user; and one
    item and one user gone."""
    world = draw_world()
    for by_item in world.vectors.values():
        twin = next(vector for item, vector in by_item.items() if item == "i003")
        assert twin is not None
        by_item |= {"n-twin": twin.copy(), "n-bought": twin + 0.1, "n-bare": None}
        del by_item["i007"]
    world.events = [event for event in world.events if event[1] != "i007" and event[0] != "u009"]
    liked = [item for user, item, _ in world.events if user == "u001"]
    world.events += [("v-new", item, "train") for item in liked] + [("u001", "n-bought", "train")]
    return world.write(folder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, TrainingResult]:
    folder = tmp_path_factory.mktemp("shop")
    world = draw_world().write(folder / "world")
    return world, train(world, folder / "trained", filter_weight=2.0)


def load_and_embed(_: Stop, tables: TrainingTables, trained: str) -> list[np.ndarray]:
    """What a process that did not train makes of the model's files."""
    torch.set_num_threads(1)
    return [made.numpy() for made in vectors_of(load_model(trained, "cpu"), load(tables))]


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, False])
def test_a_model_loaded_in_a_fresh_process_gives_the_published_vectors(tmp_path: Path, refit: bool) -> None:
    world = draw_world()
    for by_item in world.vectors.values():
        by_item["never-bought"] = next(vector for vector in by_item.values() if vector is not None).copy()
    world.write(tmp_path / "world")
    result = train(world, tmp_path / "out", refit=refit, max_epochs=6, patience=1)
    again = Actor(load_and_embed, world.tables, result.trained).result()
    for name, made in zip(("users", "items"), again, strict=True):
        published = np.array(list(vectors(result.files[name]).values()), np.float32)
        np.testing.assert_array_equal(made, published)


def test_old_rows_stay_bit_equal_new_ones_are_added_and_those_of_what_is_gone_go(
    shop: tuple[World, TrainingResult], tmp_path: Path
) -> None:
    _, trained = shop
    files = embed(later(tmp_path / "later"), trained, tmp_path / "out")
    for name, gone, new in (("items", {"i007"}, {"n-twin", "n-bought"}), ("users", {"u009"}, {"v-new"})):
        before, after = vectors(trained.files[name]), vectors(files[name])
        assert before.keys() - after.keys() == gone
        assert after.keys() - before.keys() == new  # an item without content or interactions has no row
        assert all(after[known] == before[known] for known in before.keys() & after.keys())
        assert np.isfinite([after[row] for row in new]).all()
    weights = [pl.read_parquet(of["item_weights"]) for of in (trained.files, files)]
    old = weights[0].filter((pl.col("item_id") != "i007") & (pl.col("chosen_id") != "i007"))
    assert weights[1].filter(~pl.col("item_id").str.starts_with("n-")).equals(old)
    assert weights[1].filter(item_id="n-twin").height > 0


def test_a_new_item_borrows_from_those_alike_by_the_shares_that_the_training_chose(
    shop: tuple[World, TrainingResult], tmp_path: Path
) -> None:
    world, trained = later(tmp_path / "later"), shop[1]
    for name, like in (("image", "i020"), ("text", "i003")):
        world.vectors[name] |= {"n-mixed": world.vectors[name][like], f"n-{name}": world.vectors[name][like]}
    world.write(tmp_path / "later")

    def weights_by(image: float, text: float) -> dict[str, set[tuple[str, float]]]:
        folder = shutil.copytree(trained.trained, tmp_path / f"{image}-{text}")
        described = json.loads((folder / DESCRIPTION).read_text())
        described["borrowed"]["shares"] = {"image": image, "text": text}
        (folder / DESCRIPTION).write_text(json.dumps(described))
        files = embed(world, trained.model_copy(update={"trained": str(folder)}), tmp_path / f"out-{image}-{text}")
        columns: dict[str, set[tuple[str, float]]] = {}
        for item, chosen, weight in pl.read_parquet(files["item_weights"]).iter_rows():
            columns.setdefault(item, set()).add((chosen, weight))
        return columns

    assert load_model(trained.trained).description.borrowed.shares.keys() <= {"image", "text"}
    for shares, nearest in (((1.0, 1e-6), "n-image"), ((1e-6, 1.0), "n-text")):
        columns = weights_by(*shares)
        assert columns["n-mixed"] == columns[nearest]


def test_without_anything_new_every_table_is_the_trainings(shop: tuple[World, TrainingResult], tmp_path: Path) -> None:
    world, trained = shop
    files = embed(world, trained, tmp_path / "out")
    for name in ("items", "users", "item_weights", "recommendations"):
        assert Path(files[name]).read_bytes() == Path(trained.files[name]).read_bytes(), name


def test_a_new_item_lies_beside_its_twin_and_a_new_user_beside_who_chose_the_same(
    shop: tuple[World, TrainingResult], tmp_path: Path
) -> None:
    files = embed(later(tmp_path / "later"), shop[1], tmp_path / "out")
    width = 3 * CONFIG.dim
    for name, new, like in (("items", "n-twin", "i003"), ("users", "v-new", "u001")):
        table = vectors(files[name])
        trained = np.array(list(table.values()))[:, :width]
        trained /= np.linalg.norm(trained, axis=1, keepdims=True)
        cosine = dict(zip(table, trained @ trained[list(table).index(new)], strict=True))
        closer = [other for other in table if other != new and cosine[other] > cosine[like]]
        assert len(closer) <= len(table) // 10, (name, cosine[like], closer)


def test_everyone_gets_a_list_of_today_without_what_they_chose_and_new_items_are_in_it(
    shop: tuple[World, TrainingResult], tmp_path: Path
) -> None:
    world = later(tmp_path / "later")
    files = embed(world, shop[1], tmp_path / "out")
    lists = pl.read_parquet(files["recommendations"])
    pairs = set(lists.select("user_id", "item_id").iter_rows())
    assert set(lists["user_id"]) == {user for user, _, _ in world.events}
    assert not pairs & {(user, item) for user, item, _ in world.events}
    assert {"n-twin", "n-bought"} <= set(lists["item_id"])
    assert "i007" not in set(lists["item_id"])


def test_an_items_own_interactions_move_its_vector(shop: tuple[World, TrainingResult], tmp_path: Path) -> None:
    world = later(tmp_path / "later")
    bought = vectors(embed(world, shop[1], tmp_path / "bought")["items"])["n-bought"]
    world.events = [event for event in world.events if event[1] != "n-bought"]
    unsold = vectors(embed(world.write(tmp_path / "unsold"), shop[1], tmp_path / "out")["items"])["n-bought"]
    width = 3 * CONFIG.dim
    assert not np.allclose(bought[:width], unsold[:width])
    assert bought[width] == pytest.approx(CONFIG.popularity_prior * np.log(2))
    assert unsold[width:] == [0.0] * len(unsold[width:])
    assert any(bought[width + 1 :])


def test_a_feature_of_another_width_or_none_is_refused_by_name(
    shop: tuple[World, TrainingResult], tmp_path: Path
) -> None:
    world = draw_world()
    world.vectors["image"] = {item: None if v is None else v[:4] for item, v in world.vectors["image"].items()}
    with pytest.raises(UserError, match=r"image \(6 numbers\), text \(7 numbers\); found image \(4 numbers"):
        embed(world.write(tmp_path / "narrow"), shop[1], tmp_path / "out")
    del world.vectors["image"], world.features["image"]
    with pytest.raises(UserError, match=r"found text \(7 numbers\)"):
        embed(world.write(tmp_path / "fewer"), shop[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "no json", "other release", "lost"])
def test_a_damaged_model_is_refused_in_one_line(
    shop: tuple[World, TrainingResult], tmp_path: Path, damage: str
) -> None:
    for name in (DESCRIPTION, TENSORS):
        (tmp_path / name).write_bytes((Path(shop[1].trained) / name).read_bytes())
    if damage == "cut":
        (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:1000])
    elif damage == "no json":
        (tmp_path / DESCRIPTION).write_text("{")
    elif damage == "other release":
        description = json.loads((tmp_path / DESCRIPTION).read_text())
        (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"format": 2}))
    else:
        (tmp_path / TENSORS).unlink()
    with pytest.raises(UserError, match=r"model at .*Train again"):
        load_model(str(tmp_path))


def test_equal_trainings_leave_equal_models_and_no_pickle(shop: tuple[World, TrainingResult], tmp_path: Path) -> None:
    world, trained = shop
    again = train(world, tmp_path / "again", filter_weight=2.0)
    assert sorted(path.name for path in Path(again.trained).iterdir()) == [DESCRIPTION, TENSORS]
    for name in (DESCRIPTION, TENSORS):
        assert (Path(again.trained) / name).read_bytes() == (Path(trained.trained) / name).read_bytes()


def test_ids_of_any_language_come_back(tmp_path: Path) -> None:
    world = draw_world()
    world.events += [(user, f"i00{n}", "train") for n, user in enumerate(("", "Ünal\n", "用户"))]
    result = train(world.write(tmp_path / "world"), tmp_path / "out", max_epochs=1)
    assert load_model(result.trained, "cpu").users == list(vectors(result.files["users"]))
    assert vectors_of(load_model(result.trained, "cpu"), load(world.tables)).users.shape[0] == 63
