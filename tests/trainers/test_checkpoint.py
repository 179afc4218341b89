"""A killed run goes on to the same end; a checkpoint that does not fit is left aside."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch

from schemas.errors import UserError
from schemas.model import DESCRIPTION, TENSORS
from schemas.training import CM3Config
from tests.support.world import World, draw_world
from trainers import cm3
from trainers.cm3.build import build
from trainers.data import Dataset, load
from trainers.fit import fit

CHILD = """
import os, signal, sys
from pathlib import Path
from schemas.training import CM3Config, TrainingTables
from trainers import cm3

interactions, text, image, output, checkpoint, kill_at = sys.argv[1:]
batches = 0
original = cm3.train.CM3.loss

def loss(self, *arguments):
    global batches
    batches += 1
    if batches == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)

cm3.train.CM3.loss = loss
tables = TrainingTables(interactions=interactions, features={"text": text, "image": image})
cm3.run(tables=tables, output=Path(output), checkpoint=Path(checkpoint),
        config=CM3Config(dim=8, max_epochs=6, batch_size=128, steps_per_epoch=3, checkpoint_seconds=0))
"""


def run_child(world: World, output: Path, checkpoint: Path, kill_at: int) -> int:
    """Train in a process that kills itself with SIGKILL before its `kill_at`-th batch."""
    arguments = [world.interactions, world.features["text"], world.features["image"], output, checkpoint, kill_at]
    root = Path(cm3.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run([sys.executable, "-c", CHILD, *map(str, arguments)], env=environment, check=False).returncode


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_ends_with_the_numbers_of_an_unbroken_one(world: World, tmp_path: Path) -> None:
    config = CM3Config(dim=8, max_epochs=6, batch_size=128, steps_per_epoch=3, checkpoint_seconds=0)
    checkpoint = tmp_path / "state" / "broken.pt"
    # An epoch has five batches in three steps: the fifteenth is in the third.
    assert run_child(world, tmp_path / "broken", checkpoint, 15) == -signal.SIGKILL
    assert not (tmp_path / "broken").exists()
    epochs: list[int] = []
    result = cm3.run(
        tables=world.tables,
        output=tmp_path / "broken",
        config=config,
        checkpoint=checkpoint,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == list(range(3, 6 + result.best_epoch + 1))  # the second phase's are counted on
    cm3.run(tables=world.tables, output=tmp_path / "whole", config=config)
    for name in ("items", "users", "item_weights", "recommendations", "metrics", "epochs"):
        assert (tmp_path / "whole" / f"{name}.parquet").read_bytes() == (
            tmp_path / "broken" / f"{name}.parquet"
        ).read_bytes(), name
    for name in (DESCRIPTION, TENSORS):
        assert (tmp_path / "whole/model" / name).read_bytes() == (tmp_path / "broken/model" / name).read_bytes(), name


def test_a_checkpoint_that_cannot_be_written_is_reported_and_the_last_one_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, checkpoint = load(world.tables), tmp_path / "state.pt"
    config = CM3Config(dim=8, max_epochs=2, batch_size=128, checkpoint_seconds=0)
    fit(build(dataset, config), dataset, config, checkpoint=checkpoint)
    before = checkpoint.read_bytes()

    def full(state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 4 vs 8")

    monkeypatch.setattr(torch, "save", full)
    more = config.model_copy(update={"seed": 3})
    with pytest.raises(UserError, match=r"state\.pt: cannot be written .*unexpected pos.*Free space"):
        fit(build(dataset, more), dataset, more, checkpoint=checkpoint)
    assert [path.name for path in tmp_path.glob("*state.pt*")] == ["state.pt"]
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_other_data_or_another_configuration_is_not_used(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    dataset = load(world.tables)

    def epochs_trained(config: CM3Config, data: Dataset) -> list[int]:
        seen: list[int] = []
        fit(build(data, config), data, config, checkpoint=checkpoint, on_epoch=lambda epoch, _: seen.append(epoch))
        return seen

    config = CM3Config(dim=4, max_epochs=2)
    assert epochs_trained(config, dataset) == [1, 2]
    assert epochs_trained(config, dataset) == []
    assert epochs_trained(config.model_copy(update={"gamma": 0.5}), dataset) == [1, 2]
    other = draw_world()
    other.events[3] = (*other.events[3][:2], "valid")
    assert epochs_trained(config.model_copy(update={"gamma": 0.5}), load(other.write(tmp_path / "o").tables)) == [
        1,
        2,
    ]


def test_an_unreadable_checkpoint_is_left_aside(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    checkpoint.write_bytes(b"half a file")
    dataset, config = load(world.tables), CM3Config(dim=4, max_epochs=1)
    assert fit(build(dataset, config), dataset, config, checkpoint=checkpoint).epochs == 1
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
