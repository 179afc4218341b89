"""Exact nearest neighbours by every feature and by their weighted mean, in one pass over blocks of similarities.

Each block of `X X^T` serves both its rows and its columns, so half the matrix is computed. Where the processor
multiplies bfloat16, blocks are computed in it; a rigorous bound on the rounding error says which pairs could still be
among the k nearest, and those are scored again in float64. The result is the same bits on every machine.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.machine import cpu_multiplies_bfloat16, device, one_thread_each, threads
from pipeline.progress import track
from pipeline.similarity.candidates import UNKNOWN, Candidates, Score, places
from pipeline.similarity.layout import PAIRS_AT_ONCE, Catalogue, Feature, Floats, Ints, row_norms

BLOCK = 1024
"""Items in a block: a block of similarities (2 MB in bfloat16) stays in the second-level cache."""
BLOCK_GPU = 8192
"""There each block is a round trip, and takes 256 MB."""
NEARLY_UNIT = 1e-6
"""Rows so near to length 1 are multiplied as they were published, without a copy; the bound accounts for it."""
MASKED = -4.0
"""Stands in a block where a pair must not be chosen; below every cut."""
OUT_OF_REACH = 8.0
"""The cut of an item that does not search; above every similarity."""


class Pairs(NamedTuple):
    """Compare a block with others, none of them before it: each item may become a neighbour of each other one.

    A schedule's blocks ascend, so that after this no later entry touches the block.
    """

    block: int
    others: Ints


class Probe(NamedTuple):
    """Compare some items, at ascending positions, with a block, whose items may become their neighbours."""

    block: int
    rows: Ints


Schedule = Sequence[Pairs | Probe]
"""No pair of items is compared twice."""


@dataclass(frozen=True)
class Neighbours:
    """Directed edges: positions and similarity, by row, then similarity (descending), then order."""

    rows: Ints
    columns: Ints
    values: Floats


Edges = tuple[Ints, Ints, Floats]
"""The same, of one block."""


class Operand:
    """One feature's rows, of length 1, in the precision that blocks are multiplied in, with the error that brings.

    For unit x, y and their roundings x', y' with residuals r = x - x':
    |x·y - x'·y'| <= |x'||r_y| + |r_x||y'| + |r_x||r_y|, and a sum of D products in float32 adds at most
    D 2^-24 |x'||y'| (doubled here for the order of summation). A bfloat16 result, below 2, is rounded once more, by at
    most 2^-8.
    """

    def __init__(self, feature: Feature, device: torch.device, dtype: torch.dtype) -> None:
        self.row = feature.row
        n, dim = feature.matrix.shape
        on_cpu, length = device.type == "cpu", feature.norm
        as_published = on_cpu and dtype == torch.float32 and bool((np.abs(length - 1) < NEARLY_UNIT).all())
        matrix = torch.from_numpy(feature.matrix)
        self.rows = matrix if as_published else torch.empty((n, dim), dtype=dtype, device=device)
        residual = 0.0
        for start in range(0, n, PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            unit = feature.matrix[part] / length[part, None]
            if not as_published:
                self.rows[part] = torch.from_numpy(unit).to(dtype)
            residual = max(residual, float(row_norms(unit - self.rows[part].double().cpu().numpy()).max(initial=0)))
        self.error = residual * (2 + 3 * residual) + 2 * (dim + 8) * 2.0**-24 * (1 + residual) ** 2
        if dtype == torch.bfloat16:
            self.error += 2.0**-8

    def span(self, positions: slice) -> torch.Tensor:
        """Rows of adjacent items, all of which have the feature."""
        first = int(self.row[positions.start])
        return self.rows[first : first + positions.stop - positions.start]

    def gather(self, positions: Ints, room: torch.Tensor) -> torch.Tensor:
        """Rows of scattered items, all of which have the feature, copied to `room`."""
        rows = torch.from_numpy(self.row[positions]).to(self.rows.device)
        shape = len(rows), self.rows.shape[1]
        return torch.index_select(self.rows, 0, rows, out=room[: shape[0] * shape[1]].view(shape))


class Scratch(threading.local):
    """Room for a block of items and of similarities, made once in each thread that uses it.

    Large arrays made and freed between small ones that stay leave holes in memory, which those then keep from being
    used again: 3.4 GB of them at 250,000 items, where the rows alone were gathered anew for each product.
    """

    def __init__(self, block: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._pairs, self._elements, self._dtype, self._device = block**2, block * dim, dtype, device

    @cached_property
    def rows(self) -> torch.Tensor:
        """Rows of the widest feature, in the precision of the product."""
        return torch.empty(self._elements, dtype=self._dtype, device=self._device)

    @cached_property
    def product(self) -> torch.Tensor:
        """A feature's similarities, in the precision of the product."""
        return torch.empty(self._pairs, dtype=self._dtype, device=self._device)

    @cached_property
    def mean(self) -> torch.Tensor:
        """The weighted mean over features, float32."""
        return torch.empty(self._pairs, device=self._device)

    @cached_property
    def wide(self) -> torch.Tensor:
        """A copy in float32."""
        return torch.empty(self._pairs, device=self._device)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """What is above the cuts."""
        return np.empty(self._pairs, bool)


class Search:
    """The channels of a catalogue: each feature and, where there is more than one, their weighted mean.

    Args:
        k: neighbours to find, the item itself not counted.
        block: items in a block, which a schedule counts in; what suits this process's device where None.
    """

    def __init__(self, catalogue: Catalogue, k: int, block: int | None = None) -> None:
        self.catalogue, self.k = catalogue, k
        self.device = device()
        on_cpu = self.device.type == "cpu"
        self.dtype = torch.bfloat16 if on_cpu and cpu_multiplies_bfloat16() else torch.float32
        self.block = block or (BLOCK if on_cpu else BLOCK_GPU)
        self.operands = [Operand(feature, self.device, self.dtype) for feature in catalogue.features]
        self.bounds = block_bounds(catalogue, self.block)
        self.patterns = catalogue.pattern[self.bounds[:-1]]
        self.threads = threads() if on_cpu else 1
        widest = max((operand.rows.shape[1] for operand in self.operands), default=0)
        self.scratch = Scratch(self.block, widest, self.dtype, self.device)
        self.twins = [feature.twin for feature in catalogue.features]
        if len(catalogue.features) > 1:
            self.twins.append(catalogue.fused_twin)
        self.channels = self._channels()

    def run(self, schedule: Schedule) -> list[Neighbours]:
        """Compare as scheduled; the k nearest of each item that is the first of its twins, by channel.

        Each thread takes blocks of its own; the pairs of a step are all compared before the next begins.
        """
        done: dict[int, Future[list[Edges]]] = {}
        with (
            track("similarity", total=sum(map(work, schedule)), unit="blocks", part="block") as advance,
            one_thread_each(self.threads) as pool,
        ):
            for step in schedule:
                if isinstance(step, Probe):
                    list(pool.map(partial(self._probe, step.block), self._parts(step.rows)))
                else:
                    list(pool.map(partial(self._compare, step.block), step.others.tolist()))
                    done[step.block] = pool.submit(self._finish, step.block)
                advance(work(step))
            for block in range(len(self.bounds) - 1):
                if block not in done:
                    done[block] = pool.submit(self._finish, block)
            parts = [done[block].result() for block in sorted(done)]
        return [gather([part[channel] for part in parts]) for channel in range(len(self.channels))]

    def _channels(self) -> list["Channel"]:
        errors = [operand.error for operand in self.operands]
        errors.append(max(errors) + 2.0**-20)  # a mean of values errs by no more than they do, but for its own rounding
        scores = [single_score(feature) for feature in self.catalogue.features] + [fused_score(self.catalogue)]
        return [Channel(self, *channel) for channel in zip(self.twins, errors, scores, strict=False)]

    def _compare(self, block: int, other: int) -> None:
        """Each block's items with the other's."""
        shared = int(self.patterns[block] & self.patterns[other])
        for channel, similarity in self._similarities(self._span(block), self._span(other), shared):
            channel.consider(similarity, block, other)

    def _probe(self, block: int, rows: Ints) -> None:
        """Items that have the same features with a block's, one way."""
        shared = int(self.catalogue.pattern[rows[0]] & self.patterns[block])
        for channel, similarity in self._similarities(rows, self._span(block), shared):
            channel.consider_rows(similarity, rows, block)

    def _finish(self, block: int) -> list[Edges]:
        return [channel.finish(block) for channel in self.channels]

    def _parts(self, rows: Ints) -> Iterator[Ints]:
        """Items that have the same features, at most a block of them."""
        pattern = self.catalogue.pattern[rows]
        for one in np.unique(pattern):
            alike = rows[pattern == one]
            yield from (alike[start : start + self.block] for start in range(0, len(alike), self.block))

    def _similarities(self, left: slice | Ints, right: slice, shared: int) -> Iterator[tuple["Channel", torch.Tensor]]:
        """Each channel, with the similarities of items that share these features; they may be changed."""
        members = [m for m in range(len(self.operands)) if shared >> m & 1]
        total = sum(self.catalogue.features[m].weight for m in members)
        height = left.stop - left.start if isinstance(left, slice) else len(left)
        shape = (height, right.stop - right.start)
        size = shape[0] * shape[1]
        product = self.scratch.product[:size].view(shape)
        fused = len(self.operands) > 1 and total > 0
        mean = self.scratch.mean[:size].view(shape).zero_() if fused else None
        for m in members:
            operand = self.operands[m]
            rows = operand.span(left) if isinstance(left, slice) else operand.gather(left, self.scratch.rows)
            torch.mm(rows, operand.span(right).T, out=product)
            if mean is not None:
                mean.add_(product, alpha=self.catalogue.features[m].weight / total)
            yield self.channels[m], product
        if mean is not None:
            yield self.channels[-1], mean

    def _span(self, block: int) -> slice:
        return slice(int(self.bounds[block]), int(self.bounds[block + 1]))


class Channel(Candidates):
    """The candidates of one similarity, chosen from blocks.

    Of items with the same vector only the first searches and is found; the others share its neighbours afterwards.
    """

    def __init__(self, search: Search, twin: Ints, error: float, score: Score) -> None:
        super().__init__(search.k, error, search.bounds, search.catalogue.order, score)
        self._scratch = search.scratch
        self.copies = np.flatnonzero(twin != np.arange(len(twin)))
        self.cut[self.copies] = OUT_OF_REACH

    def begin(self, candidates: Neighbours, lists: Neighbours) -> None:
        """Start with candidates, and with cuts from `lists`, the k nearest so far of some items; both exact."""
        for block in range(len(self.bounds) - 1):
            first, last = np.searchsorted(candidates.rows, self._span(block))
            self.offer(block, *(getattr(candidates, name)[first:last] for name in ("rows", "columns", "values")))
        kth = places(lists.rows) == self.k - 1
        self.cut[lists.rows[kth]] = np.maximum(self.cut[lists.rows[kth]], lists.values[kth] - np.float32(self.error))

    def consider(self, similarity: torch.Tensor, block: int, other: int) -> None:
        """Offer what is above the cuts of the rows, and of the columns. Changes `similarity`."""
        rows, columns = self._span(block), self._span(other)
        for axis, span in enumerate((rows, columns)):
            self._mask_copies(similarity, axis, span)
        if block == other:
            similarity.fill_diagonal_(MASKED)
        self._first_cut(similarity, slice(*rows))
        i, j, values = self._above(similarity, self.cut[slice(*rows), None])
        self.offer(block, i + rows[0], j + columns[0], values)
        if block != other:
            self._first_cut(similarity.T, slice(*columns))
            i, j, values = self._above(similarity, self.cut[None, slice(*columns)])
            self.offer(other, j + columns[0], i + rows[0], values)

    def consider_rows(self, similarity: torch.Tensor, rows: Ints, block: int) -> None:
        """Offer the items at positions `rows` what is above their cuts. Changes `similarity`."""
        first, last = self._span(block)
        self._mask_copies(similarity, 1, (first, last))
        own = np.flatnonzero((rows >= first) & (rows < last))
        if len(own):
            similarity[torch.from_numpy(own), torch.from_numpy(rows[own] - first)] = MASKED
        self._first_cut(similarity, rows)
        i, j, values = self._above(similarity, self.cut[rows][:, None])
        at = rows[i]
        home = np.searchsorted(self.bounds, at, side="right") - 1
        for one, start, stop in runs(home):
            self.offer(one, at[start:stop], j[start:stop] + first, values[start:stop])

    def _span(self, block: int) -> tuple[int, int]:
        return int(self.bounds[block]), int(self.bounds[block + 1])

    def _mask_copies(self, similarity: torch.Tensor, axis: int, span: tuple[int, int]) -> None:
        first, last = np.searchsorted(self.copies, span)
        if first < last:
            copies = torch.from_numpy(self.copies[first:last] - span[0])
            similarity.index_fill_(axis, copies.to(similarity.device), MASKED)

    def _first_cut(self, similarity: torch.Tensor, rows: slice | Ints) -> None:
        """Where one of these items has no cut yet, this block's k-th value is one."""
        if similarity.shape[1] >= self.k and (self.cut[rows] == UNKNOWN).any():
            wide = self._scratch.wide[: similarity.numel()].view(similarity.shape).copy_(similarity)
            kth = wide.topk(self.k, dim=1, sorted=True).values[:, -1]
            self.raise_cut(rows, kth.cpu().numpy())

    def _above(self, similarity: torch.Tensor, cut: Floats) -> tuple[Ints, Ints, Floats]:
        """Row, column and value of the entries at or above `cut`, which broadcasts."""
        if similarity.device.type != "cpu":
            hits = similarity >= torch.from_numpy(cut).to(similarity.device)
            values = similarity[hits].float().cpu().numpy()
            where = hits.nonzero().cpu().numpy()
            return where[:, 0], where[:, 1], values
        mask = self._scratch.mask[: similarity.numel()].reshape(similarity.shape)
        if similarity.dtype == torch.bfloat16 and cut.min(initial=1) > 0:
            # Positive floats order like their bits, so sixteen-bit integers are compared; truncation lowers the cut.
            bits = (cut.view(np.int32) >> 16).astype(np.int16)
            np.greater_equal(similarity.view(torch.int16).numpy(), bits, out=mask)
        else:
            np.greater_equal(similarity.float().numpy(), cut, out=mask)
        flat = np.flatnonzero(mask)
        i, j = np.divmod(flat, similarity.shape[1])
        return i, j, similarity.reshape(-1)[torch.from_numpy(flat)].float().numpy()


def exact_schedule(search: Search, whole: bool = False) -> Sequence[Pairs]:
    """Each pair of blocks once that touches group 0, or, where `whole`, each pair."""
    blocks = len(search.bounds) - 1
    last = blocks if whole else int(np.searchsorted(search.bounds, search.catalogue.front))
    return [Pairs(block, np.arange(block, blocks)) for block in range(last)]


def work(step: Pairs | Probe) -> int:
    """How many comparisons of a block with a block it is worth."""
    return -(-len(step.rows) // BLOCK) if isinstance(step, Probe) else len(step.others)


def runs(values: Ints) -> Iterator[tuple[int, int, int]]:
    """(value, start, stop) of each run of equal, adjacent values."""
    if len(values):
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        yield from zip(values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True)


def block_bounds(catalogue: Catalogue, block: int) -> Ints:
    """First position of each block, and the number of items.

    No block mixes items that have different features, nor groups.
    """
    pattern = catalogue.pattern
    changes = np.flatnonzero((np.diff(pattern) != 0) | (np.diff(catalogue.group) != 0)) + 1
    runs = np.unique(np.r_[0, changes, len(pattern)])
    starts = [np.arange(first, last, block) for first, last in pairwise(runs)]
    return np.array([*np.concatenate([[], *starts]), len(pattern)], np.int64)


def single_score(feature: Feature) -> Score:
    """Exact cosine by one feature, rounded to float32."""
    return lambda rows, columns: feature.cosine(rows, columns).astype(np.float32)


def fused_score(catalogue: Catalogue) -> Score:
    """Exact weighted mean, rounded to float32."""

    def score(rows: Ints, columns: Ints) -> Floats:
        return catalogue.fused([f.cosine(rows, columns) for f in catalogue.features]).astype(np.float32)

    return score


def gather(parts: list[Edges]) -> Neighbours:
    """One set of edges from those of the blocks, which ascend."""
    none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    return Neighbours(*(np.concatenate(column) for column in zip(none, *parts, strict=True)))
