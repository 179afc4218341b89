"""A training in several processes, which torchrun starts: the numbers of one, also where one of them is killed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from flows import processes, training
from schemas.errors import UserError
from schemas.training import CM3Config, TrainingConfig, TrainingResult
from tests.support.world import World, draw_world
from trainers import cm3

pytestmark = pytest.mark.slow

CONFIG = CM3Config(
    dim=7,  # three blocks of it are 21 coordinates: the processes' shares differ
    max_epochs=5,
    batch_size=64,
    steps_per_epoch=2,  # of five batches: one process is left without one in the last round of a step of three
    neighbors=5,
    learning_rate=5e-3,
    device="cpu",
    precision="float32",
    checkpoint_seconds=0,
)
ROUNDING = {"rtol": 0, "atol": 1e-5}
"""Float32's. Only the gradients of what all processes hold, those of the encoders, are summed in another order than by
one process: 1e-7 here. A wrong share, row or weight of a batch gives 1e-2 and more."""


@dataclass
class Trained:
    """What a training left, and the epochs that it told of."""

    result: TrainingResult
    epochs: list[int] = field(default_factory=list)

    def vectors(self, table: str) -> np.ndarray:
        return pl.read_parquet(self.result.files[table])["embedding"].to_numpy()

    @property
    def curve(self) -> np.ndarray:
        return pl.read_parquet(self.result.files["epochs"])["value"].to_numpy()


def train(world: World, folder: Path, config: CM3Config) -> Trained:
    epochs: list[int] = []
    run = cm3.run if config.processes == 1 else processes.run
    result = run(
        tables=world.tables,
        output=folder / "out",
        config=config,
        never_shown=["i003"],
        checkpoint=folder / "state.pt",
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    return Trained(result, epochs)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """61 users, so that they cannot be halved, 40 items; some items lack one feature or both."""
    return draw_world(users=61).write(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def two(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(world, tmp_path_factory.mktemp("two"), CONFIG.model_copy(update={"processes": 2}))


@pytest.mark.parametrize(
    "changes",
    [
        {"published": True},
        # A batch per step: the second process has none.
        {"steps_per_epoch": 1000, "calibration": "fused", "feature_rank": 4},
    ],
    ids=str,
)
def test_two_processes_give_the_numbers_of_one_whatever_is_trained(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update={"max_epochs": 2} | changes)
    one = train(world, tmp_path / "one", config)
    together = train(world, tmp_path / "two", config.model_copy(update={"processes": 2}))
    np.testing.assert_allclose(together.curve, one.curve, **ROUNDING)
    for table in ("items", "users"):
        np.testing.assert_allclose(together.vectors(table), one.vectors(table), **ROUNDING)


def test_two_processes_give_the_numbers_of_one(world: World, two: Trained, tmp_path: Path) -> None:
    one = train(world, tmp_path, CONFIG)
    np.testing.assert_allclose(two.curve, one.curve, **ROUNDING)
    for table in ("items", "users"):
        np.testing.assert_allclose(two.vectors(table), one.vectors(table), **ROUNDING)
    assert two.epochs == one.epochs
    assert (two.result.best_epoch, two.result.parameters) == (one.result.best_epoch, one.result.parameters)
    assert two.result.test == pytest.approx(one.result.test, abs=1e-5)
    lists = pl.read_parquet(two.result.files["recommendations"])
    assert not lists.filter(item_id="i003").height


def test_where_one_is_killed_all_go_on_from_the_last_epoch_that_all_have_saved(
    world: World, two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MODULE", "tests.support.killed_training")
    killed = train(world, tmp_path, CONFIG.model_copy(update={"processes": 2}))
    assert killed.epochs == two.epochs, "epochs 1 and 2 are not trained again, 3 is"
    assert np.array_equal(killed.curve, two.curve)
    for table in ("items", "users"):
        assert np.array_equal(killed.vectors(table), two.vectors(table))


def test_more_processes_than_coordinates_are_refused_by_name(world: World, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"processes": 3, "dim": 1, "fusion": False})
    with pytest.raises(UserError, match=r"processes: expected at most 2, the number of coordinates.* found 3"):
        train(world, tmp_path, config)


def test_only_cm3_trains_in_several_processes() -> None:
    with pytest.raises(ValidationError, match=r"processes\n.*Extra inputs"):
        TrainingConfig.model_validate({"processes": 2})


def test_how_many_processes_train_is_no_part_of_the_result() -> None:
    assert training.settings(CONFIG) == training.settings(CONFIG.model_copy(update={"processes": 2}))


def test_processes_that_the_machines_cannot_share_are_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    with pytest.raises(UserError, match=r"multiple of the 2 machines.* found 3"):
        train(world, tmp_path, CONFIG.model_copy(update={"processes": 3}))
