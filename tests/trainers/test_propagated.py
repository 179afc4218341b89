"""Losses read rows of tables over the whole graph, and their gradients go back through the graph once."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas.training import CM3Config
from tests.support.world import World
from trainers.cm3.build import build
from trainers.cm3.model import CM3
from trainers.data import Dataset, load
from trainers.fit import Batch, EmbeddingModel, add_gradients
from trainers.negatives import NegativeSampler, batches
from trainers.propagated import Table, backward, gather
from trainers.recommenders import RECOMMENDERS

CONFIG = CM3Config(dim=8, neighbors=5, device="cpu")
VARIANTS = ({}, {"calibration": "fused"}, {"published": True}, {"fusion": False, "calibration": "none"})
TRAINED = sorted(name for name, recommender in RECOMMENDERS.items() if recommender.build is not None)


class Uncut(Table):
    """Rows with the computation that made the table: what autograd gives without any of ours."""

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.source[rows] if isinstance(rows, slice) else gather(self.source, rows)


def drawn(dataset: Dataset, size: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [Batch(*map(torch.from_numpy, rows)) for rows in batches(dataset, NegativeSampler(dataset), size, rng)]


def of(model: EmbeddingModel) -> dict[str, Tensor]:
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def exact(model: EmbeddingModel, batch: Batch, rng: np.random.Generator) -> None:
    """A step's gradients with a propagation and a backward pass of its own."""
    tables = [Uncut(source) for source in model.tables(rng)]
    torch.autograd.backward(model.loss(tables, batch, rng)["loss"])


def in_float64(dataset: Dataset, **changes: Any) -> CM3:
    model = build(dataset, CONFIG.model_copy(update=changes)).double()
    model.precision = torch.float64
    model.matrices = [x.double() for x in model.matrices]
    return model


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_one_batch_on_a_propagation_is_the_exact_step_bit_for_bit(world: World, changes: dict[str, Any]) -> None:
    dataset = load(world.tables)
    ends = []
    for take in (exact, lambda model, batch, rng: add_gradients(model, [batch], rng)):
        model = build(dataset, CONFIG.model_copy(update=changes))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        rng = np.random.default_rng(1)
        for batch in drawn(dataset, 100)[:3]:
            optimizer.zero_grad()
            take(model, batch, rng)
            optimizer.step()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_gradients_on_one_propagation_are_the_mean_of_those_of_its_batches(
    world: World, changes: dict[str, Any]
) -> None:
    dataset = load(world.tables)
    model, group = in_float64(dataset, **changes), drawn(dataset, 100)[:3]
    for batch in group:
        exact(model, batch, np.random.default_rng(1))  # the same λ for each
    expected = {name: gradient / len(group) for name, gradient in of(model).items()}
    model.zero_grad()
    add_gradients(model, group, np.random.default_rng(1))
    torch.testing.assert_close(of(model), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", TRAINED)
def test_every_recommenders_gradient_is_that_of_its_whole_computation(world: World, name: str) -> None:
    dataset, recommender = load(world.tables), RECOMMENDERS[name]
    assert recommender.build is not None
    model = recommender.build(dataset, recommender.configure({"device": "cpu", "dim": 8}))
    batch = drawn(dataset, 100)[0]
    exact(model, batch, np.random.default_rng(1))
    expected = of(model)
    model.zero_grad()
    add_gradients(model, [batch], np.random.default_rng(1))
    torch.testing.assert_close(of(model), expected, rtol=1e-5, atol=1e-7)


def test_a_table_collects_the_gradients_of_all_rows_that_were_read() -> None:
    x = torch.arange(8.0).view(4, 2).requires_grad_()
    table, unread = Table(x * 3), Table(x * 5)
    for weight in (1.0, 10.0):
        torch.autograd.backward((table[torch.tensor([2, 0, 2])] * weight).sum() + table[:].sum() * 100)
        table.collect()
    backward([table, unread])
    by_row = 3 * torch.tensor([200.0 + 11, 200, 200 + 22, 200])
    assert x.grad is not None
    assert torch.equal(x.grad, by_row[:, None].expand(4, 2))


def test_gradients_of_rows_that_come_twice_are_the_same_bits_every_time() -> None:
    """With plain indexing, 8 threads gave another sum each time: a hundred rows, each some 200 times."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.randint(100, (20_000,), generator=draws)
    weight = torch.randn(20_000, 64, generator=draws)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        sums = []
        for _ in range(5):
            x = torch.ones(100, 64, requires_grad=True)
            (gather(x, rows) * weight).sum().backward()  # type: ignore[no-untyped-call]
            sums.append(x.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sums[0], other) for other in sums[1:])
    torch.testing.assert_close(sums[0], torch.zeros(100, 64).index_add(0, rows, weight), rtol=1e-4, atol=1e-4)
