"""The weights of a whole catalogue: columns of the items that somebody chose, and borrowed ones of all others."""

import logging
from pickle import PicklingError
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from numpy.typing import NDArray
from torch import Tensor

from schemas.training import ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Relevant, Scorer, accuracy
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.choose import Choice
from trainers.item_weights.cold import borrow, nearest_warm
from trainers.item_weights.judge import evenly, sample
from trainers.item_weights.nearest import Floats, Rows
from trainers.item_weights.ridge import Columns, Workers, solve, solve_by
from trainers.item_weights.solvers import solvers, worth_processes

logger = logging.getLogger(__name__)

HIDDEN = 10
"""One in so many warm items plays a cold one while the lenders' own weight is chosen."""
THEMSELVES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0)
"""Weights of the lenders themselves to try, in units of a column that stands alone."""
BLOCK = 256


class CatalogueWeights(NamedTuple):
    """What having chosen item j (row) adds to the score of item i (column), (items, items), float32.

    `themselves` is what the lenders of a borrowed column themselves add to it, in the same units.
    """

    matrix: sp.csr_matrix
    themselves: float


def item_weights(
    dataset: Dataset,
    choice: Choice,
    config: ItemWeightsConfig,
    threads: int,
    themselves: float | None = None,
    solved: sp.csr_matrix | None = None,
    workers: Workers | None = None,
) -> CatalogueWeights:
    """The weights of all items. Those that nobody chose in training borrow the columns of the warm items most alike.

    Args:
        themselves: the lenders' own weight, as `lenders_weight` chose it; where None it is chosen here, if anybody
            borrows. It must be given where `dataset` holds nothing out to choose it on.
        solved: weights of the same interactions, whose columns of warm items are taken over.
        workers: other processes that solve the columns of warm items; the result is the same on equal processors.
    """
    if not choice.factor:
        return CatalogueWeights(no_weights(dataset), 0.0)
    warm, cold = np.flatnonzero(dataset.item_counts > 0), np.flatnonzero(dataset.item_counts == 0)
    content = content_of(dataset.features, choice.shares, warm)
    if solved is None:
        weights = _warm_columns(dataset, warm, content, choice, config, threads, workers)
    else:
        weights = _without(solved, dataset.item_counts == 0)
    if themselves is None:
        themselves = _choose_themselves(dataset, weights, content, warm, cold, choice, config) if len(cold) else 0.0
    logger.info("item weights: %d cold items borrow columns, the lenders' own weight is %g", len(cold), themselves)
    if len(cold):
        weights = (weights + borrow(weights, nearest_warm(cold, warm, content), themselves)).tocsr()
    return CatalogueWeights(weights, themselves)


def lenders_weight(dataset: Dataset, weights: sp.csr_matrix, choice: Choice, config: ItemWeightsConfig) -> float:
    """What the lenders of a borrowed column themselves add, as validation chooses it, even if nobody borrows yet: for
    items that come later.

    Args:
        weights: of `dataset`'s training interactions alone, or its validation interactions could not judge them.
    """
    warm, cold = np.flatnonzero(dataset.item_counts > 0), np.flatnonzero(dataset.item_counts == 0)
    content = content_of(dataset.features, choice.shares, warm)
    return _choose_themselves(dataset, _without(weights, dataset.item_counts == 0), content, warm, cold, choice, config)


def no_weights(dataset: Dataset) -> sp.csr_matrix:
    """No item says anything of another."""
    return sp.csr_matrix((len(dataset.items), len(dataset.items)), dtype=np.float32)


def _warm_columns(
    dataset: Dataset,
    warm: Rows,
    content: Floats,
    choice: Choice,
    config: ItemWeightsConfig,
    threads: int,
    workers: Workers | None,
) -> sp.csr_matrix:
    """Columns of the warm items, which only warm items speak for."""
    candidates = Candidates(dataset.matrix("train"), content, warm, config.candidates, among=warm)
    columns = _solved(candidates, choice, threads, workers)
    columns.weights[:] *= np.float32(choice.factor)
    return columns.matrix(len(dataset.items))


def _solved(candidates: Candidates, choice: Choice, threads: int, workers: Workers | None) -> Columns:
    """Columns by the workers where there are any, else by this machine's processes or threads."""
    if workers is not None:
        return solve_by(workers, candidates, choice.ridge, choice.kept)
    if worth_processes(len(candidates.items), threads):
        try:
            return solve_by(solvers(threads), candidates, choice.ridge, choice.kept)
        except (TerminatedWorkerError, PicklingError, OSError) as error:
            # One of them ran out of memory, or there is no room for the arrays that they share.
            reason, _, _ = str(error).partition("\n")
            logger.warning("item weights: %s The columns are solved by threads, which takes longer.", reason)
    return solve(candidates, [choice.ridge], threads, choice.kept)[choice.ridge]


def _choose_themselves(
    dataset: Dataset,
    weights: sp.csr_matrix,
    content: Floats,
    warm: Rows,
    cold: Rows,
    choice: Choice,
    config: ItemWeightsConfig,
) -> float:
    """The weight of the lenders themselves with which hidden warm items are found best, at little cost to the others.

    Some warm items are hidden: their rows and columns go, and they borrow columns like cold ones. The chosen weight has
    the highest recall@20 of what users chose of them, among all items, of those that leave `config.warm_kept` of
    NDCG@20 on the validation interactions of the others. One in `HIDDEN` is hidden; of a large catalogue
    `config.judged_items` are, ranked among `HIDDEN` times as many.

    Args:
        cold: the items that nobody chose. Where they are more than the hidden ones, the rest of them stands in the
            lists too: the more of them a catalogue has, the more they take from the others, and the smaller is the
            weight that leaves these enough.
    """
    hidden = evenly(warm[::HIDDEN], config.judged_items)
    others = np.setdiff1d(warm, hidden)
    train = dataset.matrix("train")
    users = np.flatnonzero((train[:, hidden].sum(axis=1) > 0) & (train[:, others].sum(axis=1) > 0))
    users = evenly(users, config.judged_users)
    if not len(users):
        return 0.0
    share = HIDDEN * len(hidden) / len(warm)  # of the catalogue that is ranked
    cold = cold[sample(cold[:0], len(cold), max(0, int(share * len(cold)) - len(hidden)))]
    nearest = nearest_warm(np.concatenate([hidden, cold]), others, content)
    trials = tuple(themselves * choice.factor for themselves in THEMSELVES)
    outcomes = _retrieved(dataset, weights, users, hidden, others, cold, nearest, trials)
    enough = config.warm_kept * outcomes[0.0][1]
    return max((t for t in outcomes if outcomes[t][1] >= enough), key=lambda t: (outcomes[t][0], -t))


def _retrieved(
    dataset: Dataset,
    weights: sp.csr_matrix,
    users: Rows,
    hidden: Rows,
    others: Rows,
    cold: Rows,
    nearest: sp.csr_matrix,
    trials: tuple[float, ...],
) -> dict[float, tuple[float, float]]:
    """The lenders' own weight → recall@20 of hidden items that were chosen, and NDCG@20 of other validation items.

    Args:
        nearest: lenders of the hidden and the cold items, from `nearest_warm`.
    """
    is_user, is_hidden = np.zeros(len(dataset.users), np.bool_), np.zeros(len(dataset.items), np.bool_)
    is_user[users], is_hidden[hidden] = True, True
    chosen = dataset.train[is_user[dataset.train[:, 0]] & is_hidden[dataset.train[:, 1]]]
    later = dataset.valid[is_user[dataset.valid[:, 0]] & ~is_hidden[dataset.valid[:, 1]]]
    wanted = np.flatnonzero(np.isin(others, later[:, 1]))
    shown = others[sample(wanted, len(others), HIDDEN * len(hidden))]
    column = np.full(len(dataset.items), -1)
    column[np.concatenate([shown, hidden])] = np.arange(len(shown) + len(hidden))
    later = later[column[later[:, 1]] >= 0]
    of_hidden, of_others = (
        Relevant(np.stack([pairs[:, 0], column[pairs[:, 1]]], axis=1), len(dataset.items)) for pairs in (chosen, later)
    )
    interactions = _without(dataset.matrix("train")[users], is_hidden)
    lent = nearest[:, np.concatenate([hidden, cold])]
    sums, judged = {themselves: np.zeros(2) for themselves in trials}, 0
    for start in range(0, len(users), BLOCK):
        rows, mine = users[start : start + BLOCK], interactions[start : start + BLOCK]
        term = mine @ weights
        known, borrowed, lenders = (part.toarray() for part in (term[:, shown], term @ lent, mine @ lent))
        taken = mine[:, shown]
        known[np.repeat(np.arange(len(rows)), np.diff(taken.indptr)), taken.indices] = -np.inf
        with_later = of_others.number(rows) > 0
        judged += int(with_later.sum())
        for themselves, total in sums.items():
            scores = np.concatenate([known, borrowed + np.float32(themselves) * lenders], axis=1)
            top = torch.topk(torch.from_numpy(scores), min(20, scores.shape[1]), dim=1).indices.numpy()
            total[0] += accuracy(of_hidden.contains(top, rows), of_hidden.number(rows), (20,))["recall", 20].sum()
            hits = of_others.contains(top[with_later], rows[with_later])
            total[1] += accuracy(hits, of_others.number(rows)[with_later], (20,))["ndcg", 20].sum()
    return {themselves: (total[0] / len(users), total[1] / max(judged, 1)) for themselves, total in sums.items()}


def _without(matrix: sp.csr_matrix, left_out: NDArray[np.bool_]) -> sp.csr_matrix:
    """The matrix without the entries of some columns."""
    kept = matrix.copy()
    kept.data[left_out[kept.indices]] = 0
    kept.eliminate_zeros()
    return kept


def scorer_without(
    dataset: Dataset, weights: sp.csr_matrix, hidden: Rows, choice: Choice, config: ItemWeightsConfig
) -> Scorer:
    """Scores by the weights as if nobody had chosen some items yet: these speak for nothing, and borrow their columns.

    The other columns are not solved again, which would take as long as the training's own: they only lose the hidden
    items' rows.

    Args:
        dataset: without the hidden items' interactions.
        weights: of `item_weights`, solved with them.
    """
    warm = np.flatnonzero(dataset.item_counts > 0)
    content = content_of(dataset.features, choice.shares, warm)
    cold = np.setdiff1d(np.flatnonzero(dataset.item_counts == 0), hidden)
    themselves = _choose_themselves(dataset, weights, content, warm, cold, choice, config)
    lent = nearest_warm(hidden, warm, content)[:, hidden]
    interactions = dataset.matrix("train")

    def scorer(rows: Rows) -> Tensor:
        mine = interactions[rows]
        term = mine @ weights
        scores = term.toarray()
        scores[:, hidden] = (term @ lent + np.float32(themselves) * (mine @ lent)).toarray()
        return torch.from_numpy(scores)

    return scorer
