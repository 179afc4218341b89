"""The ridge regressions: the exact closed form where all items are candidates, and the same bytes however computed."""

import numpy as np
import pytest
import scipy.sparse as sp

from trainers.data import Modality
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.choose import common_users, largest
from trainers.item_weights.ridge import Ridge, solve

ITEMS = np.arange(30)


def drawn(seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Common users and content of 30 items chosen by 80 users."""
    rng = np.random.default_rng(seed)
    interactions = sp.csr_matrix((rng.random((80, 30)) < 0.15).astype(np.float32))
    matrix = rng.normal(size=(30, 8)).astype(np.float32)
    feature = Modality("text", matrix, np.ones(30, np.bool_))
    return common_users(interactions), content_of({"text": feature}, {"text": 1.0})


@pytest.mark.parametrize("setting", [Ridge(0.0, 3.0), Ridge(4.0, 3.0), Ridge(20.0, 100.0)])
def test_with_all_items_as_candidates_it_is_the_exact_closed_form(setting: Ridge) -> None:
    gram, content = drawn()
    columns = solve(ITEMS, Candidates(gram, content, 30), [setting], threads=2)[setting]
    alike = content.astype(np.float64) @ content.T
    inverse = np.linalg.inv(gram.toarray() + setting.alpha * alike + setting.penalty * np.eye(30))
    exact = inverse / -np.diag(inverse)
    np.fill_diagonal(exact, 0)
    np.testing.assert_allclose(columns.matrix(30).toarray(), exact, atol=1e-6)


def test_a_column_does_not_depend_on_threads_nor_on_the_items_solved_beside_it() -> None:
    gram, content = drawn()
    candidates, setting = Candidates(gram, content, 5), Ridge(5.0, 10.0)
    together = solve(ITEMS, candidates, [setting], threads=2)[setting]
    alone = [solve(ITEMS[i : i + 1], candidates, [Ridge(1.0, 1.0), setting], threads=1)[setting] for i in ITEMS]
    assert np.concatenate([column.weights for column in alone]).tobytes() == together.weights.tobytes()


def test_an_item_without_content_has_those_chosen_with_it_and_one_nobody_chose_those_alike() -> None:
    gram, content = drawn()
    content[3] = 0
    lonely = gram.tolil()
    lonely[4, :] = 0
    lonely[:, 4] = 0
    candidates = Candidates(lonely.tocsr(), content, 6)
    rows = candidates.of(np.array([3, 4]))
    assert set(rows[0][rows[0] >= 0]) <= set(gram[3].indices) - {3}
    assert set(rows[1][rows[1] >= 0]) == set(np.argsort(-(content @ content[4]))[1:7])
    weights = solve(np.array([3, 4]), candidates, [Ridge(5.0, 10.0)], threads=1)[Ridge(5.0, 10.0)].weights
    assert np.isfinite(weights).all()


def test_the_largest_positive_entries_of_each_column_are_kept() -> None:
    weights = sp.csr_matrix(np.array([[0, 0.5, -3], [0.2, 0, 2], [0.2, 0.1, 0], [0.9, 0.1, 1]], np.float32))
    kept = largest(weights, 2).toarray()
    np.testing.assert_array_equal(kept, np.array([[0, 0.5, 0], [0.2, 0, 2], [0, 0.1, 0], [0.9, 0, 1]], np.float32))
