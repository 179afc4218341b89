"""Exact nearest neighbours by every feature and by their weighted mean, in one pass over blocks of similarities.

Each block of `X X^T` serves both its rows and its columns, so half the matrix is computed. Where the processor
multiplies bfloat16, blocks are computed in it; a rigorous bound on the rounding error says which pairs could still be
among the k nearest, and those are scored again in float64. The result has the same bits on every machine.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch

from pipeline.machine import cpu_multiplies_bfloat16, device, one_thread_each, threads
from pipeline.progress import track
from pipeline.similarity.candidates import NO_CUT, Candidates
from pipeline.similarity.edges import Neighbours, Score, concatenate, places, share_with_twins
from pipeline.similarity.layout import FeatureMatrix, Layout
from pipeline.similarity.operands import Operand, Scratch
from pipeline.similarity.schedule import BLOCK, Probe, Schedule, block_bounds, work
from pipeline.similarity.vectors import Floats, Ints

BLOCK_GPU = 8192
"""Items per block on a GPU, where each block costs a round trip and takes 256 MB."""
MASKED = -4.0
"""Stands in a block where a pair must not be chosen; below every cut."""
OUT_OF_REACH = 8.0
"""The cut of an item that does not search; above every similarity."""


class Search:
    """The channels of a layout: each feature and, where there is more than one, their weighted mean.

    Args:
        k: neighbours to find, the item itself not counted.
        block: items per block, in which a schedule counts; None: what suits this process's device.
    """

    def __init__(self, layout: Layout, k: int, block: int | None = None) -> None:
        self.layout, self.k = layout, k
        self.device = device()
        on_cpu = self.device.type == "cpu"
        self.dtype = torch.bfloat16 if on_cpu and cpu_multiplies_bfloat16() else torch.float32
        self.block = block or (BLOCK if on_cpu else BLOCK_GPU)
        self.operands = [Operand(feature, self.device, self.dtype) for feature in layout.features]
        self.bounds = block_bounds(layout, self.block)
        self.patterns = layout.pattern[self.bounds[:-1]]
        self.threads = threads() if on_cpu else 1
        widest = max((operand.rows.shape[1] for operand in self.operands), default=0)
        self.scratch = Scratch(self.block, widest, self.dtype, self.device)
        self.twins = [feature.twin for feature in layout.features]
        if len(layout.features) > 1:
            self.twins.append(layout.fused_twin)
        self.channels = self._channels()

    def run(self, schedule: Schedule) -> list[Neighbours]:
        """Compare as scheduled; the k nearest of each item that is the first of its twins, by channel.

        Threads share the comparisons of a step, all of which end before the next step begins.
        """
        futures: dict[int, Future[list[Neighbours]]] = {}
        with (
            track("similarity", total=sum(map(work, schedule)), unit="blocks", part="block") as advance,
            one_thread_each(self.threads) as pool,
        ):
            for step in schedule:
                if isinstance(step, Probe):
                    list(pool.map(partial(self._probe, step.block), self._parts(step.rows)))
                else:
                    list(pool.map(partial(self._compare, step.block), step.others.tolist()))
                    futures[step.block] = pool.submit(self._finish, step.block)
                advance(work(step))
            for block in range(len(self.bounds) - 1):
                if block not in futures:
                    futures[block] = pool.submit(self._finish, block)
            parts = [futures[block].result() for block in sorted(futures)]
        return [concatenate([part[channel] for part in parts]) for channel in range(len(self.channels))]

    def nearest_of(self, items: Ints) -> list[Neighbours]:
        """The k nearest of these items among all, by channel, and of some others; afterwards nothing has begun."""
        leaders = np.unique(np.concatenate([twin[items] for twin in self.twins]))
        edges = self.with_twins(self.run([Probe(block, leaders) for block in range(len(self.bounds) - 1)]))
        self.channels = self._channels()
        return edges

    def with_twins(self, leaders: list[Neighbours]) -> list[Neighbours]:
        """By channel, the edges of every item from those of the first of its twins."""
        return [
            share_with_twins(edges, twin, self.layout.order, self.k, channel.score)
            for edges, twin, channel in zip(leaders, self.twins, self.channels, strict=True)
        ]

    def _channels(self) -> list["Channel"]:
        errors = [operand.error for operand in self.operands]
        errors.append(max(errors) + 2.0**-20)  # a mean errs by no more than its values do, except for its own rounding
        scores = [single_score(feature) for feature in self.layout.features] + [fused_score(self.layout)]
        return [Channel(self, *channel) for channel in zip(self.twins, errors, scores, strict=False)]

    def _compare(self, block: int, other: int) -> None:
        """Each block's items with the other's."""
        shared = int(self.patterns[block] & self.patterns[other])
        for channel, similarity in self._similarities(self._span(block), self._span(other), shared):
            channel.consider(similarity, block, other)

    def _probe(self, block: int, rows: Ints) -> None:
        """Items that have the same features with a block's, one way."""
        shared = int(self.layout.pattern[rows[0]] & self.patterns[block])
        for channel, similarity in self._similarities(rows, self._span(block), shared):
            channel.consider_rows(similarity, rows, block)

    def _finish(self, block: int) -> list[Neighbours]:
        return [channel.finish(block) for channel in self.channels]

    def _parts(self, rows: Ints) -> Iterator[Ints]:
        """Items that have the same features, at most a block of them."""
        pattern = self.layout.pattern[rows]
        for one in np.unique(pattern):
            alike = rows[pattern == one]
            yield from (alike[start : start + self.block] for start in range(0, len(alike), self.block))

    def _similarities(self, left: slice | Ints, right: slice, shared: int) -> Iterator[tuple["Channel", torch.Tensor]]:
        """Each channel, with the similarities of items that share these features; the caller may change them.

        Args:
            shared: bit m set where the items on both sides have feature m.
        """
        members = [m for m in range(len(self.operands)) if shared >> m & 1]
        total = sum(self.layout.features[m].weight for m in members)
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
                mean.add_(product, alpha=self.layout.features[m].weight / total)
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
        super().__init__(search.k, error, search.bounds, search.layout.order, score)
        self._scratch = search.scratch
        self.copies = np.flatnonzero(twin != np.arange(len(twin)))
        self.cut[self.copies] = OUT_OF_REACH

    def begin(self, candidates: Neighbours, lists: Neighbours) -> None:
        """Start with candidates, and with cuts from `lists`, the k nearest so far of some items; both exact."""
        for block in range(len(self.bounds) - 1):
            first, last = np.searchsorted(candidates.rows, self._span(block))
            self.offer(block, candidates.select(slice(first, last)))
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
        self.offer(block, Neighbours(i + rows[0], j + columns[0], values))
        if block != other:
            self._first_cut(similarity.T, slice(*columns))
            i, j, values = self._above(similarity, self.cut[None, slice(*columns)])
            self.offer(other, Neighbours(j + columns[0], i + rows[0], values))

    def consider_rows(self, similarity: torch.Tensor, rows: Ints, block: int) -> None:
        """Offer the items at positions `rows` what is above their cuts. Changes `similarity`."""
        first, last = self._span(block)
        self._mask_copies(similarity, 1, (first, last))
        own = np.flatnonzero((rows >= first) & (rows < last))
        if len(own):
            similarity[torch.from_numpy(own), torch.from_numpy(rows[own] - first)] = MASKED
        self._first_cut(similarity, rows)
        i, j, values = self._above(similarity, self.cut[rows][:, None])
        positions = rows[i]
        home = np.searchsorted(self.bounds, positions, side="right") - 1
        for one, start, stop in runs(home):
            self.offer(one, Neighbours(positions[start:stop], j[start:stop] + first, values[start:stop]))

    def _span(self, block: int) -> tuple[int, int]:
        return int(self.bounds[block]), int(self.bounds[block + 1])

    def _mask_copies(self, similarity: torch.Tensor, axis: int, span: tuple[int, int]) -> None:
        first, last = np.searchsorted(self.copies, span)
        if first < last:
            copies = torch.from_numpy(self.copies[first:last] - span[0])
            similarity.index_fill_(axis, copies.to(similarity.device), MASKED)

    def _first_cut(self, similarity: torch.Tensor, rows: slice | Ints) -> None:
        """If one of these items has no cut yet, give them this block's k-th value."""
        if similarity.shape[1] >= self.k and (self.cut[rows] == NO_CUT).any():
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


def runs(values: Ints) -> Iterator[tuple[int, int, int]]:
    """(value, start, stop) of each run of equal, adjacent values."""
    if len(values):
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        yield from zip(values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True)


def single_score(feature: FeatureMatrix) -> Score:
    """Exact cosine by one feature, rounded to float32."""
    return lambda rows, columns: feature.cosine(rows, columns).astype(np.float32)


def fused_score(layout: Layout) -> Score:
    """Exact weighted mean, rounded to float32."""

    def score(rows: Ints, columns: Ints) -> Floats:
        return layout.fused([f.cosine(rows, columns) for f in layout.features]).astype(np.float32)

    return score
