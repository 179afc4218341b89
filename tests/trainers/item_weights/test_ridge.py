"""The ridge regressions: the exact closed form where all items are candidates, and the same bytes however computed."""

import resource
from multiprocessing.connection import Connection

import numpy as np
import pytest
import scipy.sparse as sp

from tests.support.warm import CONTEXT
from trainers.data import Modality
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.ridge import Ridge, largest, solve

ITEMS = np.arange(30)


def drawn(seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """What 80 users chose of 30 items, and the items' content."""
    rng = np.random.default_rng(seed)
    interactions = sp.csr_matrix((rng.random((80, 30)) < 0.15).astype(np.float32))
    matrix = rng.normal(size=(30, 8)).astype(np.float32)
    feature = Modality("text", matrix, np.ones(30, np.bool_))
    return interactions, content_of({"text": feature}, {"text": 1.0})


@pytest.mark.parametrize("setting", [Ridge(0.0, 3.0), Ridge(4.0, 3.0), Ridge(20.0, 100.0)])
def test_with_all_items_as_candidates_it_is_the_exact_closed_form(setting: Ridge) -> None:
    interactions, content = drawn()
    columns = solve(Candidates(interactions, content, ITEMS, 30), [setting], threads=2)[setting]
    alike = content.astype(np.float64) @ content.T
    gram = (interactions.T @ interactions).toarray()
    inverse = np.linalg.inv(gram + setting.alpha * alike + setting.penalty * np.eye(30))
    exact = inverse / -np.diag(inverse)
    np.fill_diagonal(exact, 0)
    np.testing.assert_allclose(columns.matrix(30).toarray(), exact, atol=1e-6)


def test_a_column_does_not_depend_on_threads_nor_on_the_items_solved_beside_it() -> None:
    interactions, content = drawn()
    setting = Ridge(5.0, 10.0)
    together = solve(Candidates(interactions, content, ITEMS, 5), [setting], threads=2)[setting]
    for item in ITEMS:
        alone = solve(
            Candidates(interactions, content, ITEMS[item : item + 1], 5), [Ridge(1.0, 1.0), setting], threads=1
        )
        assert alone[setting].weights.tobytes() == together.weights[item : item + 1].tobytes()


def test_of_more_items_chosen_together_those_with_the_most_common_users_for_their_users_are_candidates() -> None:
    interactions, content = drawn()
    gram = (interactions.T @ interactions).toarray()
    likeness = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    candidates = Candidates(interactions, np.zeros_like(content), ITEMS, 6)
    for item in ITEMS:
        others = np.setdiff1d(np.flatnonzero(gram[item]), item)
        best = others[np.argsort(-likeness[item, others], kind="stable")[:6]]
        np.testing.assert_array_equal(candidates.of(int(item)), np.sort(best))


def test_an_item_without_content_has_those_chosen_with_it_and_one_nobody_chose_those_alike() -> None:
    interactions, content = drawn()
    content[3] = 0
    alone = interactions.tolil()
    alone[:, 4] = 0
    candidates = Candidates(alone.tocsr(), content, np.array([3, 4]), 6)
    assert set(candidates.of(0)) <= set(np.flatnonzero((interactions.T @ interactions).toarray()[3])) - {3}
    assert set(candidates.of(1)) == set(np.argsort(-(content @ content[4]))[1:7])
    weights = solve(candidates, [Ridge(5.0, 10.0)], threads=1)[Ridge(5.0, 10.0)].weights
    assert np.isfinite(weights).all()


def test_the_weights_kept_of_each_column_are_the_largest_positive_ones() -> None:
    interactions, content = drawn()
    candidates, setting = Candidates(interactions, content, ITEMS, 30), Ridge(4.0, 3.0)
    whole = solve(candidates, [setting], threads=1)[setting].matrix(30)
    few = solve(candidates, [setting], threads=1, most=3)[setting].matrix(30)
    np.testing.assert_array_equal(few.toarray(), largest(whole, 3).toarray())
    assert (few.getnnz(axis=0) <= 3).all()


def test_the_largest_positive_entries_of_each_column_are_kept() -> None:
    weights = sp.csr_matrix(np.array([[0, 0.5, -3], [0.2, 0, 2], [0.2, 0.1, 0], [0.9, 0.1, 1]], np.float32))
    kept = largest(weights, 2).toarray()
    np.testing.assert_array_equal(kept, np.array([[0, 0.5, 0], [0.2, 0, 2], [0, 0.1, 0], [0.9, 0, 1]], np.float32))


def peak_of_solving(items: int, pipe: Connection) -> None:
    """Send the process's peak memory, MB."""
    rng = np.random.default_rng(1)
    interactions = sp.random(3 * items, items, 0.02, "csr", np.float32, rng)
    content = content_of(
        {"text": Modality("text", rng.normal(size=(items, 16)).astype(np.float32), np.ones(items, np.bool_))},
        {"text": 1.0},
    )
    candidates = Candidates(interactions, content, np.arange(items), 90)
    solve(candidates, [Ridge(alpha, 10.0) for alpha in range(6)], threads=2)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@pytest.mark.slow
def test_memory_does_not_grow_with_items_and_settings() -> None:
    """Each block's 20 MB are free for the next one: results that were made among them once kept 4 GB of them apart."""
    peaks = []
    for items in (192, 960):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        child = CONTEXT.Process(target=peak_of_solving, args=(items, theirs))
        child.start()
        theirs.close()
        peaks.append(ours.recv())
        child.join()
    assert peaks[1] - peaks[0] < 150
