"""From a model's vectors to the vectors that are published, whose dot product is the score."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from schemas.training import TrainingConfig
from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer, evaluate
from trainers.graph_filter import filter_embeddings

FILTER_WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""Tried on validation, besides none, where the configuration leaves η open. Interactions that are many want much, few
want none."""


class Embeddings(NamedTuple):
    """Vectors of all users (users, dim) and items (items, dim), float32."""

    users: Tensor
    items: Tensor


def embedding_scorer(
    embeddings: Embeddings, dataset: Dataset, config: TrainingConfig, filter_weight: float | None = None
) -> Scorer:
    """Scores by the embeddings that would be published."""
    if not (config.filter_weight if filter_weight is None else filter_weight):
        config = config.model_copy(update={"filter_weight": 0.0})  # the filter's coordinates would be zeros
    users, items = published_embeddings(embeddings, dataset, config, filter_weight)

    def scorer(rows: Rows) -> Tensor:
        return torch.mm(users[torch.from_numpy(rows).to(users.device)], items.T)

    return scorer


def published_embeddings(
    embeddings: Embeddings, dataset: Dataset, config: TrainingConfig, filter_weight: float | None = None
) -> Embeddings:
    """Embeddings whose dot product is the score, whatever the score.

    - cosine: rows are L2-normalised.
    - popularity prior β > 0: one more coordinate, 1 for users and β log(1 + training interactions) for items. Uniform
      negatives teach p(item | user) / p(item); the prior gives p(item) back (logit adjustment, arXiv 2007.07314).
    - filter weight η, `filter_weight` here or the configuration's: `filter.rank` more coordinates, whose products are η
      times the graph filter's scores. They are there too where validation chose 0 or has not chosen yet, so that the
      width does not depend on what it chooses.
    - A user without a training interaction has nothing but random numbers and gets the mean of the others.
    """
    users, items = embeddings
    trained = torch.zeros(len(users), dtype=torch.bool, device=users.device)
    trained[torch.from_numpy(dataset.train[:, 0]).to(users.device)] = True
    if config.score == "cosine":
        users, items = functional.normalize(users, dim=-1), functional.normalize(items, dim=-1)
    if config.popularity_prior:
        prior = config.popularity_prior * torch.from_numpy(np.log1p(dataset.item_counts)).to(items)
        users = torch.cat([users, torch.ones_like(users[:, :1])], dim=1)
        items = torch.cat([items, prior[:, None]], dim=1)
    if config.filter_weight != 0:
        weight = (config.filter_weight or 0.0) if filter_weight is None else filter_weight
        known = [torch.from_numpy(part).to(items) for part in dataset.derived(filter_embeddings, config.filter)]
        users = torch.cat([users, known[0]], dim=1)
        items = torch.cat([items, weight * known[1]], dim=1)
    return Embeddings(torch.where(trained[:, None], users, users[trained].mean(0)), items)


def _choose_filter_weight(
    embeddings: Embeddings, unfiltered: float, dataset: Dataset, config: TrainingConfig
) -> tuple[float, float]:
    """The weight that ranks validation best, and how well; the smallest of equals. `unfiltered`: how well 0 does."""
    rule = config.evaluation.for_selection()
    key = rule.selection_metric, rule.selection_k
    values = {0.0: unfiltered} | {
        weight: evaluate(embedding_scorer(embeddings, dataset, config, weight), dataset, "valid", rule).values[key]
        for weight in FILTER_WEIGHTS
    }
    best = max(values, key=lambda weight: values[weight])
    return best, values[best]
