"""The processes that train one model together: each has a share of the rows, and asks the others for theirs.

Rows of users and of items are dealt out in order. Propagation alone works on columns: it treats each on its own, so
every process propagates all rows of its share of the columns, and two exchanges take rows to columns and back. All
exchanges are torch.distributed's `all_to_all_single`.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from typing_extensions import override

from schemas.errors import UserError
from trainers.propagated import Table

T = TypeVar("T")

JOINING = timedelta(minutes=10)
"""How long the processes wait for each other at the start."""
WORKING = timedelta(days=2)
"""How long they wait for one that computes, e.g. for the first, which alone judges and publishes. Whoever ends is
noticed at once, because its connections close."""


class Processes:
    """All processes of a training, seen from one of them; alone, it gives back whatever it is given.

    Args:
        rank: of this process, from 0.
        group: what they exchange through; None: there is only this process.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.count, self.group = rank, count, group

    @classmethod
    def join(cls, wait: timedelta = JOINING) -> "Processes":
        """Meet the others that torchrun started.

        Raises: UserError: not all came within `wait`.
        """
        try:
            store, rank, count = next(iter(rendezvous("env://", timeout=wait)))
            # torchrun keeps its store when it starts all processes again: without names of their own they would find
            # the addresses of those that ended.
            store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=wait)
        except (dist.DistError, RuntimeError) as error:
            raise UserError(
                f"processes: expected all to meet within {wait.total_seconds():g} s, but at least one did not come "
                f"({str(error).splitlines()[0]}). Start torchrun on every machine, with the same --nnodes and "
                "--nproc-per-node, and let them reach the first machine's port."
            ) from error
        group = dist.new_group(timeout=WORKING)
        assert isinstance(group, dist.ProcessGroup)
        return cls(rank, count, group)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which judges and publishes."""
        return self.rank == 0

    def sizes(self, total: int) -> list[int]:
        """How many of `total` rows, or columns, each process has."""
        ends = [total * (n + 1) // self.count for n in range(self.count)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def share(self, total: int) -> slice:
        """Those of this process."""
        start = sum(self.sizes(total)[: self.rank])
        return slice(start, start + self.sizes(total)[self.rank])

    def part(self, x: Float[Tensor, "total *more"]) -> Float[Tensor, "rows *more"]:
        """This process's rows of what all have computed; a copy, so that the whole need not stay in memory."""
        return x if self.group is None else x[self.share(len(x))].clone()

    def table(self, source: Tensor) -> Table:
        """A table of which each process holds its rows, `source`, and whose losses read any."""
        return Table(source) if self.group is None else _DealtTable(source, self)

    def to_columns(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "total columns"]:
        """All rows of this process's columns, from its rows of all columns; differentiable."""
        if self.group is None:
            return x
        rows, columns = [int(n) for n in self.each(torch.tensor(len(x)))], self.sizes(x.shape[1])
        mine = columns[self.rank]
        sent = torch.cat([part.flatten() for part in torch.split(x, columns, dim=1)])
        return self._exchange(sent, [len(x) * n for n in columns], [n * mine for n in rows]).view(-1, mine)

    def to_rows(self, x: Float[Tensor, "total columns"], width: int) -> Float[Tensor, "rows width"]:
        """The way back from `to_columns`."""
        if self.group is None:
            return x
        rows, columns = self.sizes(len(x)), self.sizes(width)
        mine = rows[self.rank]
        sizes = [mine * n for n in columns]
        received = self._exchange(x.flatten(), [n * columns[self.rank] for n in rows], sizes)
        parts = zip(torch.split(received, sizes), columns, strict=True)
        return torch.cat([part.view(mine, n) for part, n in parts], dim=1)

    def whole(self, x: Float[Tensor, "rows *more"]) -> Float[Tensor, "total *more"]:
        """All rows, in the first process; the others keep theirs."""
        if self.group is None:
            return x
        rows = [int(n) for n in self.each(torch.tensor(len(x)))]
        nothing = [0] * (self.count - 1)
        received = self._exchange(x, [len(x), *nothing], rows if self.leads else [0, *nothing])
        return received if self.leads else x

    def add_gradients_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give parameters that every process holds the sum of their gradients; one without any stays without."""
        if self.group is None:
            return
        held = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        has_any = held[0].new_tensor([p.grad is not None for p in held])
        total = torch.cat([*(part.flatten() for part in parts), has_any])
        dist.all_reduce(total, group=self.group)
        *sums, has_any = torch.split(total, [*(p.numel() for p in held), len(held)])
        for parameter, gradient, used in zip(held, sums, has_any.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if used else None

    def each(self, x: Tensor) -> list[Tensor]:
        """What each process gave, everywhere; equal shapes."""
        if self.group is None:
            return [x]
        parts = [torch.empty_like(x) for _ in range(self.count)]
        dist.all_gather(parts, x, group=self.group)
        return parts

    def each_object(self, value: T) -> list[T]:
        """The same for anything small that can be pickled."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, everywhere."""
        if self.group is None:
            return compute()
        values: list[Any] = [compute() if self.leads else None]
        dist.broadcast_object_list(values, group=self.group)
        value: T = values[0]
        return value

    def _exchange(self, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows of `x`, so many to each process in turn, for so many of each; differentiable."""
        result: Tensor = _Exchange.apply(x, sent, received, self.group)  # type: ignore[no-untyped-call]  # torch's apply is untyped
        return result


class _Exchange(torch.autograd.Function):
    """The gradient of what was sent comes back by the same exchange the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        output = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(output, x.contiguous(), received, sent, group)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Exchange.forward(ctx, gradients[0], ctx.received, ctx.sent, ctx.group), None, None, None


ALONE = Processes()


class _Request(NamedTuple):
    """Which rows the processes ask each other for.

    Attributes:
        rows: of this process's own, wanted by each process in turn.
        wanted: how many of them by each process.
        asked: how many this process asks each one for.
    """

    rows: Int[Tensor, " n"]
    wanted: list[int]
    asked: list[int]


class _DealtTable(Table):
    """A table whose rows the processes hold between them. All of them must read, and collect, at the same time."""

    def __init__(self, source: Tensor, processes: Processes) -> None:
        super().__init__(source)
        self.processes = processes
        counts = [int(n) for n in processes.each(torch.tensor(len(source)))]
        self.starts = torch.tensor([0, *accumulate(counts)])

    @override
    def constant(self, rows: Tensor | slice) -> Tensor:
        request = self._request(rows)
        with torch.no_grad():
            return self.processes._exchange(self.values[request.rows], request.wanted, request.asked)

    @override
    def collect(self) -> None:
        for rows, part in self._read:
            # Also where this loss has no gradient, e.g. of a batch without negatives: the others wait to exchange.
            self._add(rows, torch.zeros_like(part) if part.grad is None else part.grad)
        self._read.clear()

    @override
    def _add(self, rows: Tensor | slice, gradient: Tensor) -> None:
        request = self._request(rows)
        received = self.processes._exchange(gradient, request.asked, request.wanted)
        # In the order of the batches, whose losses the processes have in turn: the sum is that of one process.
        parts = (torch.split(x, request.wanted) for x in (request.rows, received))
        for mine, values in zip(*parts, strict=True):
            super()._add(mine, values)

    def _request(self, rows: Tensor | slice) -> _Request:
        assert isinstance(rows, Tensor), "only CM3 trains in several processes, and it reads rows"
        asked = torch.searchsorted(rows, self.starts).diff()
        ones = [1] * self.processes.count
        wanted = self.processes._exchange(asked, ones, ones).tolist()
        mine = self.processes._exchange(rows, asked.tolist(), wanted) - self.starts[self.processes.rank]
        return _Request(mine, wanted, asked.tolist())
