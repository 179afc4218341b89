"""Columns of items that nobody has chosen yet: borrowed from the warm items most alike."""

import numpy as np
import scipy.sparse as sp

from trainers.item_weights.candidates import Floats, Rows

NEAREST = 10
"""Warm items that lend their columns to a cold one."""
BLOCK = 1024


def nearest_warm(cold: Rows, warm: Rows, content: Floats) -> sp.csr_matrix:
    """(items, items): column of a cold item holds 1 / `NEAREST` at the warm items nearest to it in content.

    The column of a cold item without content is empty.
    """
    count, width = len(content), min(NEAREST, len(warm))
    lenders, borrowers = [], []
    for start in range(0, len(cold), BLOCK):
        block = cold[start : start + BLOCK]
        block = block[content[block].any(axis=1)]
        alike = content[block] @ content[warm].T
        lenders.append(warm[np.argsort(-alike, axis=1, kind="stable")[:, :width]].ravel())
        borrowers.append(np.repeat(block, width))
    rows, columns = (np.concatenate([np.zeros(0, np.int64), *part]) for part in (lenders, borrowers))
    entries = np.full(len(rows), np.float32(1 / max(width, 1)))
    return sp.csr_matrix((entries, (rows, columns)), shape=(count, count))


def borrow(weights: sp.csr_matrix, nearest: sp.csr_matrix, themselves: float) -> sp.csr_matrix:
    """The cold columns: the mean of the lenders' columns, plus `themselves` times the lenders.

    Who chose a lender, or what speaks for a lender, speaks for the cold item.

    Args:
        weights: columns of the warm items, (items, items).
        nearest: from `nearest_warm`.
    """
    borrowed: sp.csr_matrix = (weights @ nearest + np.float32(themselves) * nearest).tocsr()
    return borrowed
