"""Tables over the whole graph that the losses of several batches read, their gradients taken back once."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def gather(x: Float[Tensor, "rows dim"], rows: Tensor) -> Tensor:
    """`x[rows]`; gradients of a row that comes several times are added in a fixed order, whatever the threads do."""
    return functional.embedding(rows, x)


class Table:
    """A tensor whose rows losses read, without a gradient as large as the tensor for each of them.

    What is read is cut off from the computation that made the tensor. `collect` adds the gradients of the rows read
    since the last call, and `backward` takes their sum through that computation. By the chain rule the parameters get
    the gradient that they would get from the sum of the losses.

    Args:
        source: (rows, …), with its computation.
    """

    def __init__(self, source: Tensor) -> None:
        self.source, self.values = source, source.detach()
        self.gradient: Tensor | None = None
        self._read: list[tuple[Tensor | slice, Tensor]] = []

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """These rows, each as often as `rows` names it; `[:]` is the whole table."""
        if isinstance(rows, slice):
            return self._part(rows)
        distinct, place = torch.unique(rows, return_inverse=True)
        return gather(self._part(distinct), place)

    def constant(self, rows: Tensor | slice) -> Tensor:
        """Rows that get no gradient; distinct and ascending."""
        return self.values[rows]

    def _part(self, rows: Tensor | slice) -> Tensor:
        part = self.constant(rows).requires_grad_()
        self._read.append((rows, part))
        return part

    def collect(self) -> None:
        """Add up the gradients of what was read; call it after each loss's own backward pass."""
        for rows, part in self._read:
            if part.grad is not None:
                self._add(rows, part.grad)
        self._read.clear()

    def _add(self, rows: Tensor | slice, gradient: Tensor) -> None:
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.values)
        self.gradient[rows] += gradient


def backward(tables: Iterable[Table]) -> None:
    """Take the collected gradients to the parameters, in one pass for all tables."""
    read = [table for table in tables if table.gradient is not None]
    torch.autograd.backward([table.source for table in read], [table.gradient for table in read])
