"""Rows are scaled to length 1 with the right gradient."""

import torch
from torch.nn.functional import normalize

from trainers.cm3.sphere import unit


def test_unit_rows_and_their_gradient_are_those_of_normalize() -> None:
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(unit(x), normalize(x, dim=-1))
    ours, expected = (torch.autograd.grad((f * y).sum(), x)[0] for f in (unit(x), normalize(x, dim=-1)))
    torch.testing.assert_close(ours, expected)


def test_a_zero_row_stays_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    assert torch.equal(unit(x), torch.zeros(2, 3))
    assert torch.isfinite(torch.autograd.grad(unit(x).sum(), x)[0]).all()
