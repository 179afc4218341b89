"""Columns of items that nobody chose, by hand on six items."""

import numpy as np
import scipy.sparse as sp

from trainers.item_weights import cold


def test_a_cold_column_is_the_mean_of_its_lenders_columns_and_the_lenders_themselves(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cold, "NEAREST", 2)
    content = np.array([[1, 0], [0.8, 0.6], [0, 1], [0, 0], [0.96, 0.28], [0, 0]], np.float32)
    weights = np.zeros((6, 6), np.float32)
    weights[2, 0], weights[3, 0], weights[3, 1] = 0.4, 0.2, 0.6
    nearest = cold.nearest_warm(np.array([4, 5]), np.array([0, 1, 2, 3]), content)
    columns = cold.borrow(sp.csr_matrix(weights), nearest, themselves=0.1).toarray()
    np.testing.assert_allclose(columns[:, 4], [0.05, 0.05, 0.2, 0.4, 0, 0])
    assert not columns[:, 5].any()  # without content there is nobody to borrow from
    assert not columns[:, :4].any()
