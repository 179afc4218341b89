"""Columns of items that nobody has chosen yet: borrowed from the warm items most alike."""

import numpy as np
import scipy.sparse as sp

from trainers.item_weights.nearest import Floats, Rows, nearest

NEAREST = 10
"""Warm items that lend their columns to a cold one."""


def nearest_warm(cold: Rows, warm: Rows, content: Floats) -> sp.csr_matrix:
    """(items, items): column of a cold item holds 1 / `NEAREST` at the warm items nearest to it in content.

    The column of a cold item without content is empty.
    """
    count = len(content)
    lenders = nearest(content, cold, warm, NEAREST)
    borrowers = np.repeat(cold, lenders.shape[1]).reshape(lenders.shape)
    lent = lenders >= 0
    entries = np.full(lent.sum(), np.float32(1 / max(lenders.shape[1], 1)))
    return sp.csr_matrix((entries, (lenders[lent], borrowers[lent])), shape=(count, count))


def borrow(weights: sp.csr_matrix, nearest: sp.csr_matrix, themselves: float) -> sp.csr_matrix:
    """The cold columns: the mean of the lenders' columns, plus `themselves` times the lenders.

    Who chose a lender, or what speaks for a lender, speaks for the cold item.

    Args:
        weights: columns of the warm items, (items, items).
        nearest: from `nearest_warm`.
    """
    borrowed: sp.csr_matrix = (weights @ nearest + np.float32(themselves) * nearest).tocsr()
    return borrowed
