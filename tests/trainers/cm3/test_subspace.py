"""Principal directions keep what the features say, whatever the order of the items."""

import numpy as np
import pytest

from trainers.cm3.subspace import principal_subspace


def low_rank(items: int, width: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(items, rank)) @ rng.normal(size=(rank, width))).astype(np.float32)


def test_features_of_no_more_than_the_kept_directions_keep_every_cosine() -> None:
    x = low_rank(60, 40, 6)
    y = principal_subspace(x, 6)
    assert y.shape == (60, 6)
    np.testing.assert_allclose(y @ y.T * (40 / 6), x @ x.T, rtol=1e-3, atol=1e-3)


def test_narrow_features_are_left_as_they_are() -> None:
    x = low_rank(60, 40, 40)
    assert principal_subspace(x, 40) is x


@pytest.mark.parametrize("seed", [0, 1])
def test_coordinates_do_not_depend_on_the_order_of_the_items(seed: int) -> None:
    x = low_rank(60, 40, 40)
    order = np.random.default_rng(seed).permutation(60)
    np.testing.assert_allclose(principal_subspace(x[order], 5), principal_subspace(x, 5)[order], rtol=1e-3, atol=1e-3)


def test_items_without_the_feature_stay_at_zero() -> None:
    x = low_rank(60, 40, 40)
    x[7] = 0
    assert not principal_subspace(x, 5)[7].any()
