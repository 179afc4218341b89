"""The precision that blocks are multiplied in."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.similarity.layout import assemble
from pipeline.similarity.operands import Operand
from pipeline.similarity.vectors import FeatureTable


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [8, 384])
def test_no_block_errs_by_more_than_its_bound(dtype: torch.dtype, dim: int) -> None:
    rng = np.random.default_rng(dim)
    matrix = (rng.standard_normal((300, dim)) * rng.exponential(3, (300, 1))).astype(np.float32)
    matrix[:50] = np.abs(matrix[:50])  # all of one sign, so errors may add up
    ids = pa.array([f"i{row}" for row in range(300)])
    layout = assemble({"x": FeatureTable(ids, matrix)}, {"x": 1.0})
    operand = Operand(layout.features[0], torch.device("cpu"), dtype)
    laid_out = layout.features[0].matrix.astype(np.float64)
    laid_out /= np.linalg.norm(laid_out, axis=1, keepdims=True)
    product = (operand.span(slice(0, 300)) @ operand.span(slice(0, 300)).T).double().numpy()
    worst = np.abs(product - laid_out @ laid_out.T).max()
    assert 0 < worst <= operand.error
    assert operand.error < 0.02
