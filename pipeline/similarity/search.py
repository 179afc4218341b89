"""Exact nearest neighbours by every feature and by their weighted mean, in one pass over blocks of similarities.

Each block of `X X^T` serves both its rows and its columns, so half the matrix is computed. Where the processor
multiplies bfloat16, blocks are computed in it; a rigorous bound on the rounding error says which pairs could still be
among the k nearest, and those are scored again in float64. The result is the same bits on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pipeline.progress import track
from pipeline.similarity.candidates import UNKNOWN, Candidates, Score, places
from pipeline.similarity.vectors import PAIRS_AT_ONCE, Catalogue, Feature, Floats, Ints, row_norms

BLOCK = 1024
"""Items in a block: a block of similarities (2 MB in bfloat16) stays in the second-level cache."""
MASKED = -4.0
"""Stands in a block where a pair must not be chosen; below every cut."""
OUT_OF_REACH = 8.0
"""The cut of an item that does not search; above every similarity."""

Schedule = Sequence[tuple[int, Ints]]
"""(block, blocks to compare it with, none of them before it), blocks ascending."""


@dataclass(frozen=True)
class Neighbours:
    """Directed edges: positions and similarity, by row, then similarity (descending), then order."""

    rows: Ints
    columns: Ints
    values: Floats


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
        self.rows = torch.empty((n, dim), dtype=dtype, device=device)
        residual = 0.0
        for start in range(0, n, PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            unit = feature.matrix[part] / feature.norm[part, None]
            rounded = torch.from_numpy(unit).to(dtype)
            self.rows[part] = rounded
            residual = max(residual, float(row_norms(unit - rounded.double().numpy()).max(initial=0)))
        self.error = residual * (2 + 3 * residual) + 2 * (dim + 8) * 2.0**-24 * (1 + residual) ** 2
        if dtype == torch.bfloat16:
            self.error += 2.0**-8

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the items at positions `start` to `stop`, all of which have the feature."""
        first = int(self.row[start])
        return self.rows[first : first + stop - start]


class Search:
    """The channels of a catalogue: each feature and, where there is more than one, their weighted mean.

    Args:
        k: neighbours to find, the item itself not counted.
    """

    def __init__(self, catalogue: Catalogue, k: int) -> None:
        block = BLOCK
        self.catalogue, self.k = catalogue, k
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cpu" and has_bfloat16() else torch.float32
        self.operands = [Operand(feature, self.device, self.dtype) for feature in catalogue.features]
        self.bounds = block_bounds(catalogue, block)
        self.patterns = catalogue.pattern[self.bounds[:-1]]
        # Made once: large arrays made and freed between small ones that stay would leave holes in memory.
        self.mask = np.empty(block * block, bool)
        self.wide = torch.empty(block * block, dtype=torch.float32, device=self.device)
        self._buffers = [torch.empty(block * block, dtype=d, device=self.device) for d in (self.dtype, torch.float32)]
        self.twins = [feature.twin for feature in catalogue.features]
        if len(catalogue.features) > 1:
            self.twins.append(catalogue.fused_twin)
        self.channels = self._channels()

    def run(self, schedule: Schedule) -> list[Neighbours]:
        """Compare the scheduled blocks; the k nearest of each item that is the first of its twins, by channel."""
        found: list[list[tuple[Ints, Ints, Floats]]] = [[] for _ in self.channels]
        open_blocks = set(range(len(self.bounds) - 1))
        total = sum(len(others) for _, others in schedule)
        with track("similarity", total=total, unit="blocks", part="block") as advance:
            for block, others in schedule:
                for other in others:
                    self._compare(block, int(other))
                open_blocks.discard(block)
                for channel, parts in zip(self.channels, found, strict=True):
                    parts.append(channel.finish(block))
                advance(len(others))
        for block in sorted(open_blocks):
            for channel, parts in zip(self.channels, found, strict=True):
                parts.append(channel.finish(block))
        return [gather(parts) for parts in found]

    def _channels(self) -> list["Channel"]:
        errors = [operand.error for operand in self.operands]
        errors.append(max(errors) + 2.0**-20)  # a mean of values errs by no more than they do, but for its own rounding
        scores = [single_score(feature) for feature in self.catalogue.features] + [fused_score(self.catalogue)]
        return [Channel(self, *channel) for channel in zip(self.twins, errors, scores, strict=False)]

    def _compare(self, block: int, other: int) -> None:
        shared = int(self.patterns[block] & self.patterns[other])
        members = [m for m in range(len(self.operands)) if shared >> m & 1]
        total = sum(self.catalogue.features[m].weight for m in members)
        shape = (int(self.bounds[block + 1] - self.bounds[block]), int(self.bounds[other + 1] - self.bounds[other]))
        mean = self._buffers[1][: shape[0] * shape[1]].view(shape).zero_() if len(self.operands) > 1 else None
        for m in members:
            left, right = (self.operands[m].block(*self.bounds[b : b + 2]) for b in (block, other))
            product = torch.mm(left, right.T, out=self._buffers[0][: shape[0] * shape[1]].view(shape))
            if mean is not None and total > 0:
                mean.add_(product, alpha=self.catalogue.features[m].weight / total)
            self.channels[m].consider(product, block, other)
        if mean is not None and total > 0:
            self.channels[-1].consider(mean, block, other)


class Channel(Candidates):
    """The candidates of one similarity, chosen from blocks.

    Of items with the same vector only the first searches and is found; the others share its neighbours afterwards.
    """

    def __init__(self, search: Search, twin: Ints, error: float, score: Score) -> None:
        super().__init__(search.k, error, search.bounds, search.catalogue.order, score)
        self._mask, self._wide = search.mask, search.wide
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
            first, last = np.searchsorted(self.copies, span)
            if first < last:
                copies = torch.from_numpy(self.copies[first:last] - span[0])
                similarity.index_fill_(axis, copies.to(similarity.device), MASKED)
        if block == other:
            similarity.fill_diagonal_(MASKED)
        self._first_cut(similarity, rows[0])
        i, j, values = self._above(similarity, self.cut[slice(*rows), None])
        self.offer(block, i + rows[0], j + columns[0], values)
        if block != other:
            self._first_cut(similarity.T, columns[0])
            i, j, values = self._above(similarity, self.cut[None, slice(*columns)])
            self.offer(other, j + columns[0], i + rows[0], values)

    def _span(self, block: int) -> tuple[int, int]:
        return int(self.bounds[block]), int(self.bounds[block + 1])

    def _first_cut(self, similarity: torch.Tensor, start: int) -> None:
        """Where a row has no cut yet, this block's k-th value is one."""
        if similarity.shape[1] >= self.k and (self.cut[start : start + len(similarity)] == UNKNOWN).any():
            wide = self._wide[: similarity.numel()].view(similarity.shape).copy_(similarity)
            kth = wide.topk(self.k, dim=1, sorted=True).values[:, -1]
            self.raise_cut(start, kth.cpu().numpy())

    def _above(self, similarity: torch.Tensor, cut: Floats) -> tuple[Ints, Ints, Floats]:
        """Row, column and value of the entries at or above `cut`, which broadcasts."""
        if similarity.device.type != "cpu":
            hits = similarity >= torch.from_numpy(cut).to(similarity.device)
            values = similarity[hits].float().cpu().numpy()
            where = hits.nonzero().cpu().numpy()
            return where[:, 0], where[:, 1], values
        mask = self._mask[: similarity.numel()].reshape(similarity.shape)
        if similarity.dtype == torch.bfloat16 and cut.min(initial=1) > 0:
            # Positive floats order like their bits, so sixteen-bit integers are compared; truncation lowers the cut.
            bits = (cut.view(np.int32) >> 16).astype(np.int16)
            np.greater_equal(similarity.view(torch.int16).numpy(), bits, out=mask)
        else:
            np.greater_equal(similarity.float().numpy(), cut, out=mask)
        flat = np.flatnonzero(mask)
        i, j = np.divmod(flat, similarity.shape[1])
        return i, j, similarity.reshape(-1)[torch.from_numpy(flat)].float().numpy()


def exact_schedule(search: Search) -> Schedule:
    """Each pair of blocks once that touches group 0, which is all of them where there is no other group."""
    blocks = len(search.bounds) - 1
    last = int(np.searchsorted(search.bounds, search.catalogue.front))
    return [(block, np.arange(block, blocks)) for block in range(last)]


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


def gather(parts: list[tuple[Ints, Ints, Floats]]) -> Neighbours:
    """One set of edges from those of the blocks, rows ascending."""
    parts = sorted((part for part in parts if len(part[0])), key=lambda part: int(part[0][0]))
    if not parts:
        return Neighbours(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    rows, columns, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Neighbours(rows, columns, values)


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
