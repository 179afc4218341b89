"""Equal encoders are equal beyond doubt, and one without sense is found out."""

from pathlib import Path

import numpy as np
import pytest

from schemas.encoder_comparison import EncoderPair, Judged
from schemas.training import CM3Config, ComparisonConfig
from tests.support.world import World, draw_world
from trainers import compare_encoders

pytestmark = pytest.mark.slow
CONFIG = ComparisonConfig(seeds=(0, 1), cm3=CM3Config(dim=4, max_epochs=2, batch_size=256))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this file find each other's trainings."""
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    """A hundred users; `copy` has the vectors of `image`, `shuffled` the same ones of other items."""
    drawn = draw_world(users=100, items=60, modalities=1)
    ids, rows = list(drawn.vectors["image"]), list(drawn.vectors["image"].values())
    drawn.vectors["copy"] = dict(drawn.vectors["image"])
    order = np.random.default_rng(0).permutation(len(rows))
    drawn.vectors["shuffled"] = {item: rows[place] for item, place in zip(ids, order, strict=True)}
    return drawn.write(folder / "world")


def compared(world: World, folder: Path, *names: str) -> tuple[dict[str, Judged], dict[tuple[str, ...], EncoderPair]]:
    tables = world.tables.model_copy(update={"features": {name: world.features[name] for name in names}})
    judged, pairs = compare_encoders.run(tables=tables, finished=folder / "finished", config=CONFIG)
    return judged, {(pair.encoder, pair.other, pair.measure): pair for pair in pairs}


def test_of_one_seed_no_spread_is_known(world: World, folder: Path) -> None:
    tables = world.tables.model_copy(update={"features": {"image": world.features["image"]}})
    config = CONFIG.model_copy(update={"seeds": (0,)})
    judged, _ = compare_encoders.run(tables=tables, finished=folder / "finished", config=config)
    assert (judged["image"].warm_spread, judged["image"].cold_spread) == (None, None)
    assert judged["image"].cold is not None


def test_an_encoder_and_its_copy_do_not_differ(world: World, folder: Path) -> None:
    judged, pairs = compared(world, folder, "image", "copy")
    assert judged["image"] == judged["copy"]
    assert judged["image"].warm_spread > 0  # type: ignore[operator]
    assert {(pair.measure, pair.p_value, pair.p_holm, pair.ahead) for pair in pairs.values()} == {
        ("warm", 1, 1, 0),
        ("cold", 1, 1, 0),
    }


def test_another_encoder_trains_itself_alone(world: World, folder: Path) -> None:
    judged, _ = compared(world, folder, "image", "copy")
    kept = {path: path.stat().st_mtime_ns for path in (folder / "finished").iterdir()}
    more, _ = compared(world, folder, "image", "copy", "shuffled")
    files = {path: path.stat().st_mtime_ns for path in (folder / "finished").iterdir()}
    assert kept.items() <= files.items()
    assert len(files) == len(kept) // 2 * 3
    assert {name: more[name] for name in judged} == judged


def test_an_encoder_is_ahead_of_the_same_vectors_shuffled(world: World, folder: Path) -> None:
    judged, pairs = compared(world, folder, "image", "shuffled")
    assert judged["image"].cold > judged["shuffled"].cold  # type: ignore[operator]
    assert judged["image"].cold_spread > 0  # type: ignore[operator]
    pair = pairs["image", "shuffled", "cold"]
    assert pair.p_holm < 0.05  # type: ignore[operator]
    assert pair.ahead > 0  # type: ignore[operator]


def test_every_two_are_compared_by_both_measures_and_corrected_together(world: World, folder: Path) -> None:
    _, pairs = compared(world, folder, "image", "copy", "shuffled")
    assert len(pairs) == 6
    values = sorted((pair.p_value, pair.p_holm) for pair in pairs.values())
    assert values[0][1] == pytest.approx(6 * values[0][0])  # type: ignore[operator]
