"""Broken training stops, early stopping has something to judge by, and an epoch has so many steps at most."""

from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import CM3Config
from tests.support.world import World, draw_world
from trainers.cm3.build import build
from trainers.data import load
from trainers.fit import Batch, batches_of_steps, fit, refit, torch_device


def test_a_loss_that_is_not_finite_stops_and_says_where(world: World) -> None:
    dataset = load(world.tables)
    config = CM3Config(dim=4, max_epochs=5, batch_size=128)
    model = build(dataset, config)
    calls = []
    original = model.loss

    def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = original(*arguments)
        return {k: v * float("nan") for k, v in terms.items()} if len(calls) == 7 else terms

    model.loss = poisoned  # type: ignore[method-assign]
    count = -(-len(dataset.train) // 128)
    with pytest.raises(UserError, match=rf"epoch {(7 - 1) // count + 1}, batch {(7 - 1) % count + 1} of {count}"):
        fit(model, dataset, config)


@pytest.mark.parametrize(("steps", "batches_of_a_step"), [(100, 1), (1, 5)])
def test_a_step_of_several_batches_is_larger_by_the_root_of_their_number(
    world: World, tmp_path: Path, steps: int, batches_of_a_step: int
) -> None:
    dataset = load(world.tables)
    size = -(-len(dataset.train) // 5)
    config = CM3Config(dim=4, max_epochs=1, batch_size=size, steps_per_epoch=steps, learning_rate=0.01)
    fit(build(dataset, config), dataset, config, checkpoint=tmp_path / "state.pt")
    (group,) = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.01 * batches_of_a_step**0.5)


@pytest.mark.parametrize("published", [False, True])
def test_a_refit_killed_after_its_last_epoch_ends_with_the_same_vectors(
    world: World, tmp_path: Path, published: bool
) -> None:
    dataset = load(world.tables).all_for_training()
    config = CM3Config(dim=4, batch_size=128, published=published)
    unbroken, again = (
        refit(build(dataset, config), dataset, config, epochs=2, checkpoint=tmp_path / "state.pt") for _ in range(2)
    )
    assert all(torch.equal(*parts) for parts in zip(unbroken, again, strict=True))


def test_without_validation_interactions_selection_is_refused(tmp_path: Path) -> None:
    world = draw_world()
    world.events = [e for e in world.events if e[2] != "valid"]
    dataset = load(world.write(tmp_path).tables)
    config = CM3Config(dim=4)
    with pytest.raises(TooFewInteractionsError, match="validation"):
        fit(build(dataset, config), dataset, config)


def test_one_setting_names_the_device_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_DEVICE", "meta,cpu")  # a device that every machine has, and that is not the default
    assert torch_device("auto").type == "meta"
    assert torch_device("cpu").type == "cpu"
    monkeypatch.setenv("CM3_DEVICE", "mps")
    assert torch_device("auto").type == "cpu"
    with pytest.raises(UserError, match="mps"):
        torch_device("mps")
    monkeypatch.setenv("CM3_DEVICE", "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        torch_device("auto")


@pytest.mark.parametrize(("count", "most", "sizes"), [(5, 9, [1] * 5), (5, 5, [1] * 5), (5, 2, [2, 3])])
def test_an_epochs_batches_are_shared_out_over_its_steps(count: int, most: int, sizes: list[int]) -> None:
    stream = [Batch(*[torch.tensor([n])] * 3) for n in range(count)]
    groups = list(batches_of_steps(iter(stream), count, most))
    assert [len(group) for group in groups] == sizes
    assert [batch for group in groups for batch in group] == stream


def test_an_epoch_propagates_once_a_step_and_learns(world: World) -> None:
    dataset = load(world.tables)
    config = CM3Config(dim=8, max_epochs=8, batch_size=32, steps_per_epoch=3, learning_rate=1e-2)
    model = build(dataset, config)
    calls = []
    original = model.tables
    model.tables = lambda rng: calls.append(1) or original(rng)  # type: ignore[method-assign, func-returns-value]
    losses = [value for _, name, value in fit(model, dataset, config).curve if name == "loss"]
    assert len(dataset.train) > 3 * 32
    assert len(calls) == 3 * 8
    assert losses[-1] < losses[0] - 0.1
