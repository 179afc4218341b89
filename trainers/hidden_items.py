"""Items hidden from training as if they came tomorrow: how well are they found by their content alone?

One in `EVERY` of the items that train is hidden with all its interactions, of every split. Relevant to a user are the
hidden items that the user chose; what is left of the training interactions says what the user likes. Two rankings:

- `cold`        all items are ranked: does a new item get past those that everybody knows?
- `cold_only`   the hidden items alone are ranked: is it the right new item?
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.training import EvaluationConfig
from trainers.data import Dataset
from trainers.evaluation import Ranking, Rows, Scorer, evaluate

EVERY, FIRST = 10, 5
"""Hidden are the items in places 5, 15, 25, … by id, none of which decides how much cold items borrow (places 0, 10, …
of what is left)."""
MOST_USERS = 5000
"""Users who are judged, at most, drawn evenly."""
SPLITS = ("cold", "cold_only")
"""As the metrics table calls the two rankings."""
METRICS = ("recall", "ndcg")


@dataclass(frozen=True)
class HiddenItems:
    """The same users and items with some of the items hidden.

    Attributes:
        items: rows of the hidden items, ascending.
        dataset: train and valid without the hidden items; test holds the interactions with them, of all splits, of the
            users who are judged: those with an interaction left to train on.
    """

    items: Rows
    dataset: Dataset


def hide(dataset: Dataset, first: int = FIRST) -> HiddenItems | None:
    """Hide a share of the items, from the place `first` on; None where nobody could be judged."""
    items = np.flatnonzero(dataset.item_counts > 0)[first::EVERY]
    is_hidden = np.zeros(len(dataset.items), np.bool_)
    is_hidden[items] = True
    train, valid = (pairs[~is_hidden[pairs[:, 1]]] for pairs in (dataset.train, dataset.valid))
    chosen = np.unique(np.concatenate([dataset.train, dataset.valid, dataset.test]), axis=0)
    chosen = chosen[is_hidden[chosen[:, 1]] & np.isin(chosen[:, 0], train[:, 0])]
    users = np.unique(chosen[:, 0])
    if not len(users):
        return None
    chosen = chosen[np.isin(chosen[:, 0], users[:: -(-len(users) // MOST_USERS)])]
    return HiddenItems(items, replace(dataset, train=train, valid=valid, test=chosen))


def judged(scorer: Scorer, hidden: HiddenItems, rule: EvaluationConfig) -> dict[str, Ranking]:
    """Recall and NDCG of the hidden items by both rankings, judged as test is.

    Args:
        scorer: fitted on `hidden.dataset`, or on less.
    """
    rule = rule.model_copy(update={"cold_bounds": ()})
    scorers = {"cold": scorer, "cold_only": _among(scorer, hidden.items, len(hidden.dataset.items))}
    return {split: _plain(evaluate(scorers[split], hidden.dataset, "test", rule)) for split in SPLITS}


def _among(scorer: Scorer, items: Rows, count: int) -> Scorer:
    """The same scores for these items; no other item stands in any list."""
    others: NDArray[np.bool_] = np.ones(count, np.bool_)
    others[items] = False

    def narrow(rows: Rows) -> Tensor:
        scores = scorer(rows)
        scores[:, torch.from_numpy(others).to(scores.device)] = -torch.inf
        return scores

    return narrow


def _plain(ranking: Ranking) -> Ranking:
    """`METRICS` alone: the others say nothing of hidden items."""
    values = {key: value for key, value in ranking.values.items() if key[0] in METRICS}
    counts = {key: ranking.counts[key] for key in values}
    return Ranking(values, counts, {key: ranking.per_user[key] for key in values}, ranking.users)
