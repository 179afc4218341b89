"""The weights of a whole catalogue: columns of the items that somebody chose, and borrowed ones of all others."""

import logging

import numpy as np
import scipy.sparse as sp
import torch

from schemas.training import ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Relevant, Rows, accuracy
from trainers.item_weights.candidates import Candidates, content_of
from trainers.item_weights.choose import Choice, common_users, largest
from trainers.item_weights.cold import borrow, nearest_warm
from trainers.item_weights.ridge import solve

logger = logging.getLogger(__name__)

HIDDEN = 10
"""One in so many warm items plays a cold one while the lenders' own weight is chosen."""
THEMSELVES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
WARM_KEEPS = 0.99
"""Share of the warm items' NDCG that must be left when cold items stand among them."""
BLOCK = 256


def item_weights(
    dataset: Dataset, choice: Choice, config: ItemWeightsConfig, threads: int, judged_on: Dataset | None = None
) -> sp.csr_matrix:
    """What having chosen item j (row) adds to the score of item i (column), (items, items), float32.

    Items that nobody chose in training borrow the columns of the warm items most alike.

    Args:
        judged_on: the same users and items with a validation part, where `dataset` holds nothing out; by default
            `dataset`.
    """
    if not choice.factor:
        return no_weights(dataset)
    warm, cold = np.flatnonzero(dataset.item_counts > 0), np.flatnonzero(dataset.item_counts == 0)
    weights = _warm_columns(dataset, warm, choice, config, threads)
    if len(cold):
        content = content_of(dataset.features, choice.shares, warm)
        themselves = _choose_themselves(judged_on or dataset, weights, content, warm, config)
        logger.info("item weights: %d cold items borrow columns, the lenders' own weight is %g", len(cold), themselves)
        weights = weights + borrow(weights, nearest_warm(cold, warm, content), themselves)
    return (weights * np.float32(choice.factor)).tocsr()


def no_weights(dataset: Dataset) -> sp.csr_matrix:
    """No item says anything of another."""
    return sp.csr_matrix((len(dataset.items), len(dataset.items)), dtype=np.float32)


def _warm_columns(
    dataset: Dataset, warm: Rows, choice: Choice, config: ItemWeightsConfig, threads: int
) -> sp.csr_matrix:
    """Columns of the warm items, which only warm items speak for."""
    gram = common_users(dataset.matrix("train")[:, warm])
    content = content_of(dataset.features, choice.shares, warm)[warm]
    candidates = Candidates(gram, content, config.candidates)
    columns = solve(np.arange(len(warm)), candidates, [choice.ridge], threads)[choice.ridge].matrix(len(warm))
    if choice.kept is not None:
        columns = largest(columns, choice.kept)
    entries = columns.tocoo()
    count = len(dataset.items)
    return sp.csr_matrix((entries.data, (warm[entries.row], warm[entries.col])), shape=(count, count))


def _choose_themselves(
    dataset: Dataset, weights: sp.csr_matrix, content: np.ndarray, warm: Rows, config: ItemWeightsConfig
) -> float:
    """The weight of the lenders themselves with which hidden warm items are found best, at little cost to the others.

    Some warm items are hidden: their rows and columns go, and they borrow columns like cold ones. The chosen weight has
    the highest recall@20 of what users chose of them, among all items, of those that leave `WARM_KEEPS` of NDCG@20 on
    the validation interactions of the others.
    """
    hidden = warm[::HIDDEN]
    others = np.setdiff1d(warm, hidden)
    visible = np.ones(len(dataset.items), np.float32)
    visible[hidden] = 0
    keep = sp.diags(visible, format="csr")
    remaining = (keep @ weights @ keep).tocsr()
    lenders = nearest_warm(hidden, others, content)
    train = dataset.matrix("train")
    users = np.flatnonzero((train[:, hidden].sum(axis=1) > 0) & (train[:, others].sum(axis=1) > 0))
    users = users[:: max(1, len(users) // config.judged_users)]
    if not len(users):
        return 0.0
    outcomes = []
    for themselves in THEMSELVES:
        scores = remaining + borrow(remaining, lenders, themselves)
        outcomes.append((themselves, *_retrieved(dataset, users, hidden, (train @ keep).tocsr(), scores.tocsr())))
    enough = WARM_KEEPS * outcomes[0][2]
    return max((o for o in outcomes if o[2] >= enough), key=lambda o: (o[1], -o[0]))[0]


def _retrieved(
    dataset: Dataset, users: Rows, hidden: Rows, interactions: sp.csr_matrix, weights: sp.csr_matrix
) -> tuple[float, float]:
    """Mean recall@20 of hidden items that were chosen, and mean NDCG@20 of validation items that are not hidden."""
    is_hidden = np.zeros(len(dataset.items), np.bool_)
    is_hidden[hidden] = True
    chosen = dataset.train[is_hidden[dataset.train[:, 1]]]
    later = dataset.valid[~is_hidden[dataset.valid[:, 1]]]
    cold, warm = (Relevant(pairs, len(dataset.items)) for pairs in (chosen, later))
    recall, ndcg, judged = 0.0, 0.0, 0
    for start in range(0, len(users), BLOCK):
        rows = users[start : start + BLOCK]
        mine = interactions[rows]
        scores = (mine @ weights).toarray()
        scores[np.repeat(np.arange(len(rows)), np.diff(mine.indptr)), mine.indices] = -np.inf
        top = torch.topk(torch.from_numpy(scores), min(20, scores.shape[1]), dim=1).indices.numpy()
        recall += accuracy(cold.contains(top, rows), cold.number(rows), (20,))["recall", 20].sum()
        with_later = warm.number(rows) > 0
        hits = warm.contains(top[with_later], rows[with_later])
        ndcg += accuracy(hits, warm.number(rows)[with_later], (20,))["ndcg", 20].sum()
        judged += int(with_later.sum())
    return recall / len(users), ndcg / max(judged, 1)
