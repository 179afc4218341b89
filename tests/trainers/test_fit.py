"""Broken training stops, early stopping has something to judge by, and sums do not depend on threads."""

from pathlib import Path

import pytest
import torch

from schemas.errors import UserError
from schemas.training import CM3Config
from tests.support.world import World, draw_world
from trainers.cm3.train import build
from trainers.data import load
from trainers.fit import fit, gather, torch_device


def test_a_loss_that_is_not_finite_stops_and_says_where(world: World) -> None:
    dataset = load(world.tables)
    config = CM3Config(dim=4, max_epochs=5, batch_size=128)
    model = build(dataset, config)
    calls = []
    original = model.loss

    def poisoned(batch: object, rng: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = original(batch, rng)  # type: ignore[arg-type]
        return {k: v * float("nan") for k, v in terms.items()} if len(calls) == 7 else terms

    model.loss = poisoned  # type: ignore[method-assign]
    steps = -(-len(dataset.train) // 128)
    with pytest.raises(UserError, match=rf"epoch {(7 - 1) // steps + 1}, step {(7 - 1) % steps + 1} of {steps}"):
        fit(model, dataset, config)


def test_without_validation_interactions_selection_is_refused(tmp_path: Path) -> None:
    world = draw_world()
    world.events = [e for e in world.events if e[2] != "valid"]
    dataset = load(world.write(tmp_path).tables)
    config = CM3Config(dim=4)
    with pytest.raises(UserError, match="validation"):
        fit(build(dataset, config), dataset, config)


def test_one_setting_names_the_device_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_DEVICE", "meta,cpu")  # a device that every machine has, and that is not the default
    assert torch_device("auto").type == "meta"
    assert torch_device("cpu").type == "cpu"
    monkeypatch.setenv("CM3_DEVICE", "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        torch_device("auto")


def test_gradients_of_rows_that_come_twice_are_the_same_bits_every_time() -> None:
    """With plain indexing, 8 threads gave another sum each time: a hundred rows, each some 200 times."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.randint(100, (20_000,), generator=draws)
    weight = torch.randn(20_000, 64, generator=draws)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        gradients = []
        for _ in range(5):
            x = torch.ones(100, 64, requires_grad=True)
            (gather(x, rows) * weight).sum().backward()  # type: ignore[no-untyped-call]
            gradients.append(x.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    torch.testing.assert_close(gradients[0], torch.zeros(100, 64).index_add(0, rows, weight), rtol=1e-4, atol=1e-4)
