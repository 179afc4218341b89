"""The frozen graphs hold the paper's numbers, and propagation is the sum of their powers."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from schemas.errors import UserError
from tests.support.world import World
from trainers.data import Modality, Neighbors, load
from trainers.graphs import (
    Graph,
    exact_neighbors,
    item_item_adjacency,
    propagate,
    smooth_items,
    user_item_adjacency,
)

CPU = torch.device("cpu")


def feature(name: str, matrix: np.ndarray) -> Modality:
    return Modality(name, matrix.astype(np.float32), matrix.any(axis=1))


def test_propagation_of_two_users_and_two_items_matches_the_sum_by_hand() -> None:
    # u0 chose i0 and i1, u1 chose i1: degrees 2, 1 | 1, 2; edges u0-i0 1/√2, u0-i1 1/2, u1-i1 1/√2.
    r = 1 / np.sqrt(2)
    by_hand = np.array([[0, 0, r, 0.5], [0, 0, 0, r], [r, 0, 0, 0], [0.5, r, 0, 0]])
    adjacency = user_item_adjacency(sp.csr_matrix(np.array([[1.0, 1.0], [0.0, 1.0]], np.float32)))
    np.testing.assert_allclose(adjacency.toarray(), by_hand, rtol=1e-6)
    x = np.array([[1.0, 0], [0, 1], [2, 0], [0, -1]])
    expected = x + by_hand @ x + by_hand @ by_hand @ x
    result = propagate(torch.from_numpy(x).float(), Graph.of(adjacency, CPU), 2)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_propagations_gradient_is_that_of_the_dense_matrix(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((6, 6)) * (rng.random((6, 6)) < 0.5)
    dense = (dense + dense.T if symmetric else dense).astype(np.float32)
    x = torch.randn(6, 3, requires_grad=True)
    y = torch.randn(6, 3)
    a = torch.from_numpy(dense)
    (ours,) = torch.autograd.grad((propagate(x, Graph.of(sp.csr_matrix(dense), CPU), 3) * y).sum(), x)
    (expected,) = torch.autograd.grad(((x + a @ x + a @ a @ x + a @ a @ a @ x) * y).sum(), x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_users_and_items_without_an_edge_keep_their_own_vector() -> None:
    adjacency = user_item_adjacency(sp.csr_matrix(np.array([[1.0, 0], [0, 0]], np.float32)))
    result = propagate(torch.eye(4), Graph.of(adjacency, CPU), 4)
    assert torch.equal(result[1], torch.eye(4)[1])
    assert torch.equal(result[3], torch.eye(4)[3])


def test_item_graph_mixes_each_modalitys_nearest_and_rows_sum_to_one() -> None:
    image = feature("image", np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0, 0]]))
    text = feature("text", np.array([[1.0, 0], [0, 1], [0.9, 0.1], [0, 0], [0, 0]]))
    features = {"image": image, "text": text}
    graph = item_item_adjacency(exact_neighbors(features, k=1), features, k=2, weights={"image": 0.1, "text": 0.9})
    expected = np.zeros((5, 5))
    expected[0, [0, 1, 2]] = [0.5, 0.05, 0.45]  # itself; nearest by image; nearest by text
    expected[1, [1, 0, 2]] = [0.5, 0.05, 0.45]
    expected[2, [2, 3, 0]] = [0.5, 0.05, 0.45]
    expected[3, [3, 2]] = [0.5, 0.5]  # no text: image alone
    expected[4, 4] = 1  # nothing at all
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-6)


def test_neighbours_of_the_similarity_table_are_used_as_they_are() -> None:
    features = {"text": feature("text", np.eye(3) + 0.1)}
    cosine = {"text": np.array([0.2, 0.9, 0.5], np.float32)}
    given = Neighbors(np.array([0, 0, 1]), np.array([1, 2, 2]), cosine)
    graph = item_item_adjacency(given, features, k=2, weights=None).toarray()
    np.testing.assert_allclose(graph, [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]])


def test_exact_neighbours_equal_a_full_sort(world: World) -> None:
    dataset = load(world.tables)
    neighbors = exact_neighbors(dataset.features, k=4, block=7)
    for name, f in dataset.features.items():
        unit = f.matrix / np.maximum(np.linalg.norm(f.matrix, axis=1, keepdims=True), 1e-9)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        cosine[:, ~f.present] = -np.inf
        for item in np.flatnonzero(f.present):
            mine = neighbors.item == item
            best = set(np.argsort(-cosine[item])[:4])
            assert best <= set(neighbors.neighbor[mine])
            own = np.nan_to_num(neighbors.cosine[name][mine], nan=-9)
            assert best == set(neighbors.neighbor[mine][np.argsort(-own)[:4]])


def test_weights_that_name_other_features_are_refused() -> None:
    features = {"text": feature("text", np.eye(3))}
    with pytest.raises(UserError, match="modality_weights"):
        item_item_adjacency(exact_neighbors(features, k=1), features, k=2, weights={"txt": 1.0})


def test_products_do_not_depend_on_the_number_of_threads() -> None:
    matrix = sp.random(400, 400, 0.05, format="csr", random_state=0, dtype=np.float32)
    graph, x = Graph.of(matrix, CPU), torch.randn(400, 48)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = graph.product(x)
        torch.set_num_threads(2)
        assert torch.equal(one, graph.product(x))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.5])
def test_smoothing_is_the_dense_filter_and_leaves_items_without_interactions(noise: float) -> None:
    rng = np.random.default_rng(0)
    interactions = (rng.random((40, 30)) < 0.2).astype(np.float32)
    interactions[:, 4] = 0
    adjacency = user_item_adjacency(sp.csr_matrix(interactions))
    n = adjacency.toarray()[:40, 40:].astype(np.float64)
    m = n.T @ n
    x = rng.normal(size=(30, 5)).astype(np.float32)
    expected = m @ np.linalg.solve(m + noise * np.eye(30), x)
    expected[4] = x[4]
    result = smooth_items(torch.from_numpy(x), Graph.of(adjacency, CPU), 40, noise)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6, atol=1e-6)
