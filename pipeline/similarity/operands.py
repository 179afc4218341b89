"""The operands of block products: each feature's rows in the precision of the product, and reusable memory."""

import threading
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.similarity.layout import PAIRS_AT_ONCE, FeatureMatrix, row_norms
from pipeline.similarity.vectors import Ints

NEARLY_UNIT = 1e-6
"""Rows whose length differs from 1 by less are multiplied as published, without a copy; the bound accounts for it."""


class Operand:
    """One feature's rows, scaled to length 1, in the precision of the product, and the error that results.

    For unit x, y and their roundings x', y' with residuals r = x - x':
    |x·y - x'·y'| <= |x'||r_y| + |r_x||y'| + |r_x||r_y|, and a sum of D products in float32 adds at most
    D 2^-24 |x'||y'| (doubled here for the order of summation). A bfloat16 result, below 2, is rounded once more, by at
    most 2^-8.

    Attributes:
        rows: (n_present, dim) tensor on the search's device.
        error: largest difference between a product of two rows and their exact cosine.
    """

    def __init__(self, feature: FeatureMatrix, device: torch.device, dtype: torch.dtype) -> None:
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
    """Memory for one block of items and of similarities, allocated once in each thread that uses it.

    Large arrays that are made and freed between small ones that stay leave holes in memory, which the small ones then
    keep from being used again: 3.4 GB of them at 250,000 items, where the rows alone were gathered again for each
    product.
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
        """Which similarities are above the cuts."""
        return np.empty(self._pairs, bool)
