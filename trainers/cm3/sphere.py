"""Projection onto the unit sphere."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-12
"""A shorter vector has no direction: it is divided by this length, so a zero row stays zero."""


class _Unit(torch.autograd.Function):
    """y = x / |x|; the gradient is g's part along the sphere, (g - y (y·g)) / |x|.

    It has a third of the memory traffic of `functional.normalize` and its backward pass, which matters for a table of
    all users.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(SMALLEST).reciprocal_()
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        (g,) = gradients
        along = torch.linalg.vecdot(y, g).unsqueeze(-1)
        gradient: Tensor = torch.addcmul(g, y, along, value=-1).mul_(inverse)
        return gradient


def unit(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Rows of `x` scaled to length 1."""
    y: Tensor = _Unit.apply(x)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return y
