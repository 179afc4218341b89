"""The nearest in content, exact and in lists."""

import subprocess
import sys

import numpy as np
import pytest

from trainers.item_weights import nearest as module
from trainers.item_weights.nearest import nearest

COUNT, K = 4000, 10


def drawn() -> np.ndarray:
    """Vectors of length 1 around 40 centres; the first item has none."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 16))[rng.integers(0, 40, COUNT)] + 0.3 * rng.normal(size=(COUNT, 16))
    content = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    content[0] = 0
    return content


def test_the_nearest_are_those_of_the_largest_products_among_what_is_searched() -> None:
    content, among = drawn(), np.arange(1, COUNT, 3)
    rows = nearest(content, np.arange(50), among, K)
    assert (rows[0] == -1).all()
    for item in range(1, 50):
        best = among[np.argsort(-(content[among] @ content[item]), kind="stable")[:K]]
        np.testing.assert_array_equal(np.sort(rows[item]), np.sort(best))


def test_lists_find_nearly_all_of_them_and_the_same_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    content, items, among = drawn(), np.arange(0, COUNT, 7), np.arange(1, COUNT, 2)
    exact = nearest(content, items, among, K)
    monkeypatch.setattr(module, "EXACT_UP_TO", 0)
    monkeypatch.setattr(module, "FEW", 0)
    rows = nearest(content, items, among, K)
    assert (rows[0] == -1).all()
    assert set(rows[1:].ravel()) <= set(among)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact[1:], rows[1:], strict=True)]
    assert np.mean(shared) > 0.9 * K
    np.testing.assert_array_equal(rows, nearest(content, items, among, K))
    assert (rows != exact).any(), "else the lists were not searched"


@pytest.mark.slow
def test_the_search_takes_as_many_threads_as_torch_where_faiss_has_an_openmp_of_its_own() -> None:
    """As where it is imported before torch."""
    code = """if True:
        import faiss, numpy, torch
        from trainers.item_weights.nearest import nearest
        faiss.omp_set_num_threads(3)
        torch.set_num_threads(2)
        nearest(numpy.eye(4, dtype=numpy.float32), numpy.arange(4), numpy.arange(4), 2)
        print(faiss.omp_get_max_threads())
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "2\n"
