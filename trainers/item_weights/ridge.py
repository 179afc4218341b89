"""The ridge regression of each item on its candidates."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import UserError
from trainers.item_weights.candidates import Candidates
from trainers.item_weights.nearest import Floats, Rows

BLOCK = 64
"""Items that a thread solves before it takes others."""
SHARD = 256
"""Items that another process solves before it takes others."""

Workers = Callable[[Callable[[Any, Any], Any], Any, Iterable[Any]], Iterable[Any]]
"""(function, shared, parts) → `function(shared, part)` of each part, in the order of the parts, by other processes."""


class Ridge(NamedTuple):
    """α, how much being alike in content counts beside being chosen together, and λ, the penalty on weights."""

    alpha: float
    penalty: float


class Columns(NamedTuple):
    """For each of some items (n,), ascending, the items that speak for it (n, most), -1 at the end, and how much."""

    items: Rows
    candidates: NDArray[np.int32]
    weights: Floats

    def matrix(self, count: int) -> sp.csr_matrix:
        """(items, items): row j, column i holds how much having chosen j speaks for i; other columns are empty."""
        entries = self.weights != 0
        ends = np.zeros(count + 1, np.int64)
        ends[self.items + 1] = entries.sum(axis=1)
        columns = (self.weights[entries], self.candidates[entries], np.cumsum(ends))
        return sp.csc_matrix(columns, shape=(count, count)).tocsr()


def solve(
    candidates: Candidates, settings: Sequence[Ridge], threads: int, most: int | None = None
) -> dict[Ridge, Columns]:
    """The weights of the candidates' items by each of the settings.

    Column i solves (G_CC + α S_CC + λ I) w = G_Ci + α S_Ci on the candidates C of i: G counts common users, S is the
    cosine of content. With all items as candidates this is the exact closed form, the inverse P of G + α S + λ I:
    w_j = -P_ji / P_ii. Every column is solved on its own, so neither the block nor the number of threads changes it.

    Args:
        most: the largest positive weights kept of each column; None keeps all.

    Raises: UserError: a penalty is too small.
    Source: EASE (arXiv 1905.03375) with a content term; one regression per item on few candidates as in SLIM with
    neighbourhoods (Ning and Karypis 2011).
    """
    count = len(candidates.items)
    # Room made before: G of the whole catalogue, or an array per item, would not fit.
    solved = {setting: _room(candidates, most) for setting in settings}

    def fill(start: int) -> None:
        room = np.empty(candidates.users.shape[1], np.int32)
        for place in range(start, min(start + BLOCK, count)):
            chosen = candidates.of(place)
            rows = np.append(chosen, candidates.items[place])
            together, alike = _common_users(rows, candidates.users, room), _alike(candidates.content[rows])
            for setting, columns in solved.items():
                kept, weights = _largest_positive(_regress(together, alike, setting), most)
                columns.candidates[place, : len(kept)], columns.weights[place, : len(kept)] = chosen[kept], weights

    with _one_thread_each(threads) as pool:
        list(pool.map(fill, range(0, count, BLOCK)))
    return solved


class Part(NamedTuple):
    """Places of the candidates' items from `start` to `end`, and how they are solved."""

    start: int
    end: int
    setting: Ridge
    most: int | None


def solve_by(workers: Workers, candidates: Candidates, setting: Ridge, most: int | None) -> Columns:
    """As `solve`, one setting, each shard of items by one of the workers."""
    count = len(candidates.items)
    parts = [Part(start, min(start + SHARD, count), setting, most) for start in range(0, count, SHARD)]
    columns = _room(candidates, most)
    for part, solved in zip(parts, workers(solve_part, candidates, parts), strict=True):
        columns.candidates[part.start : part.end] = solved.candidates
        columns.weights[part.start : part.end] = solved.weights
    return columns


def solve_part(candidates: Candidates, part: Part) -> Columns:
    """Runs in a worker, on as many threads as torch has there."""
    some = candidates.part(part.start, part.end)
    return solve(some, [part.setting], torch.get_num_threads(), part.most)[part.setting]


def _room(candidates: Candidates, most: int | None) -> Columns:
    """Columns without any entry."""
    shape = len(candidates.items), candidates.width if most is None else min(most, candidates.width)
    return Columns(candidates.items, np.full(shape, -1, np.int32), np.zeros(shape, np.float32))


def _regress(together: Float[Tensor, "n n"], alike: Float[Tensor, "n n"], setting: Ridge) -> Floats:
    """The weights of all but the last item in the last one's score, (n - 1,)."""
    system = torch.add(together, alike, alpha=setting.alpha)
    towards = system[:-1, -1:]
    among = system[:-1, :-1].contiguous()
    among.diagonal().add_(setting.penalty)
    factor, failed = torch.linalg.cholesky_ex(among)
    if failed:
        raise UserError(
            f"item_weights.penalties: λ {setting.penalty:g} is too small to solve with, since some items were chosen "
            "by the same users. Leave it out, or raise it (50 to 400 by default)."
        )
    weights: Floats = torch.cholesky_solve(towards, factor)[:, 0].float().numpy()
    return weights


def _common_users(items: Rows, users: sp.csr_matrix, room: NDArray[np.int32]) -> Float[Tensor, "n n"]:
    """The number of common users of each two of some items, float64.

    Args:
        users: of each item, (items, users).
        room: an entry per user, of any value.
    """
    part = users[items]
    # Few of all users chose any of these items: they get numbers of their own, so that the product costs what it has.
    room[part.indices] = np.arange(len(part.indices))
    narrow = sp.csr_matrix((part.data, room[part.indices], part.indptr), shape=(len(items), max(1, part.nnz)))
    return torch.from_numpy((narrow @ narrow.T).toarray()).double()


def _alike(content: Floats) -> Float[Tensor, "n n"]:
    """The cosine of each two rows, float64."""
    rows = torch.from_numpy(content)
    return (rows @ rows.T).double()


def largest(weights: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """The `most` largest positive entries of each column; of equal ones those of the first rows."""
    entries = weights.tocoo()
    order = np.lexsort((entries.row, -entries.data, entries.col))
    starts = np.searchsorted(entries.col[order], np.arange(weights.shape[1]))
    place = np.arange(len(order)) - starts[entries.col[order]]
    first = order[(place < most) & (entries.data[order] > 0)]
    return sp.csr_matrix((entries.data[first], (entries.row[first], entries.col[first])), shape=weights.shape)


def _largest_positive(weights: Floats, most: int | None) -> tuple[Rows, Floats]:
    """Places, ascending, and values of the `most` largest positive numbers, of equal ones the first; None: of all."""
    if most is None:
        return np.arange(len(weights)), weights
    order = np.argsort(-weights, kind="stable")[:most]
    kept = np.sort(order[weights[order] > 0])
    return kept, weights[kept]


@contextmanager
def _one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: so small products are not split, and their rounding never varies."""

    def compute_alone() -> None:
        torch.get_num_threads()  # else the first product would take the number that was set last, by any thread
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "columns", compute_alone) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
