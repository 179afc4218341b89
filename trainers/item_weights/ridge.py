"""The ridge regression of each item on its candidates."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from trainers.item_weights.candidates import Candidates, Floats, Rows

BLOCK = 64
"""Items whose systems are assembled and solved at once."""


class Ridge(NamedTuple):
    """α, how much being alike in content counts beside being chosen together, and λ, the penalty on weights."""

    alpha: float
    penalty: float


class Columns(NamedTuple):
    """For each of some items (n,) its candidates (n, width), -1 at the end, and their weights in its score."""

    items: Rows
    candidates: Rows
    weights: Floats

    def matrix(self, count: int) -> sp.csr_matrix:
        """(items, items): row j, column i holds how much having chosen j speaks for i; other columns are empty."""
        line, place = np.nonzero((self.candidates >= 0) & (self.weights != 0))
        entries = self.weights[line, place], (self.candidates[line, place], self.items[line])
        return sp.csr_matrix(entries, shape=(count, count))


def solve(items: Rows, candidates: Candidates, settings: Sequence[Ridge], threads: int) -> dict[Ridge, Columns]:
    """The weights of some items by each of the settings.

    Column i solves (G_CC + α S_CC + λ I) w = G_Ci + α S_Ci on the candidates C of i: G counts common users, S is the
    cosine of content. With all items as candidates this is the exact closed form, the inverse P of G + α S + λ I:
    w_j = -P_ji / P_ii. Every column is solved on its own, so neither the block nor the number of threads changes it.

    Source: EASE (arXiv 1905.03375) with a content term; one regression per item on few candidates as in SLIM with
    neighbourhoods (Ning and Karypis 2011).
    """
    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    with _one_thread_each(threads) as pool:
        solved = list(pool.map(lambda block: _solve(block, candidates, settings), blocks))
    return {
        setting: Columns(*(np.concatenate(parts) for parts in zip(*(block[setting] for block in solved), strict=True)))
        for setting in settings
    }


def _solve(items: Rows, candidates: Candidates, settings: Sequence[Ridge]) -> dict[Ridge, Columns]:
    chosen = candidates.of(items)
    among, towards = _common_users(items, chosen, candidates.gram)
    rows = torch.from_numpy(candidates.content[np.where(chosen >= 0, chosen, 0)])
    rows[torch.from_numpy(chosen < 0)] = 0
    alike_among = torch.bmm(rows, rows.transpose(1, 2)).double()
    alike = torch.bmm(rows, torch.from_numpy(candidates.content[items])[:, :, None]).double()
    identity = torch.eye(chosen.shape[1], dtype=torch.float64)
    solved = {}
    for setting in settings:
        system = among + setting.alpha * alike_among + setting.penalty * identity
        weights = torch.cholesky_solve(towards[:, :, None] + setting.alpha * alike, torch.linalg.cholesky(system))
        solved[setting] = Columns(items, chosen, weights[:, :, 0].float().numpy())
    return solved


def _common_users(
    items: Rows, chosen: Rows, gram: sp.csr_matrix
) -> tuple[Float[Tensor, "items width width"], Float[Tensor, "items width"]]:
    """The numbers of common users among each item's candidates, and of each with the item itself; float64."""
    count, width = chosen.shape
    among = np.zeros((count, width, width))
    towards = np.zeros((count, width))
    place = np.full(gram.shape[0], -1)
    for line, (item, mine) in enumerate(zip(items, chosen, strict=True)):
        mine = mine[mine >= 0]
        place[mine] = np.arange(len(mine))
        part = gram[mine]
        column = place[part.indices]
        row = np.repeat(np.arange(len(mine)), np.diff(part.indptr))
        among[line, row[column >= 0], column[column >= 0]] = part.data[column >= 0]
        own = slice(gram.indptr[item], gram.indptr[item + 1])
        column = place[gram.indices[own]]
        towards[line, column[column >= 0]] = gram.data[own][column >= 0]
        place[mine] = -1
    return torch.from_numpy(among), torch.from_numpy(towards)


@contextmanager
def _one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: so small products are not split, and their rounding never varies."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "columns", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
