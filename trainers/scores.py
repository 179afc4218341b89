"""From a model's vectors to the vectors that are published, whose dot product is the score."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from schemas.training import EvaluationConfig, GraphFilterConfig, TrainingConfig
from trainers.data import Dataset
from trainers.evaluation import Rows, Scorer, selection
from trainers.graph_filter import filter_embeddings

FILTER_WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""Tried on validation, besides 0, where the configuration leaves η open. Dense data wants a large weight, sparse data
none."""

Vectors = NDArray[np.float32]


class Embeddings(NamedTuple):
    """Vectors of all users (users, dim) and items (items, dim), float32."""

    users: Tensor
    items: Tensor


@dataclass(frozen=True)
class Score:
    """What a trained recommender ranks by: a dot product of trained vectors, plus terms.

        score(u, i) = û · î  +  β log(1 + n_i)  +  η · filter(u, i)

    Each term is written as coordinates of the published vectors, so that their dot product is the whole score.

    Attributes:
        cosine: û and î are the trained vectors L2-normalised; false: as they are.
        popularity_prior: β of item i's n_i training interactions. Uniform negatives teach p(item | user) / p(item);
            the prior gives p(item) back (logit adjustment, arXiv 2007.07314). 0 adds no coordinate.
        filter: the graph filter, `filter.rank` coordinates; None adds none.
        filter_weight: η. With 0 the filter's coordinates stay, as zeros in the items' vectors, so that the width does
            not depend on what validation chooses.
    """

    cosine: bool
    popularity_prior: float
    filter: GraphFilterConfig | None
    filter_weight: float

    @classmethod
    def of(cls, config: TrainingConfig) -> "Score":
        """The configured score; η is 0 where the configuration leaves it to validation."""
        return cls(
            cosine=config.score == "cosine",
            popularity_prior=config.popularity_prior,
            filter=None if config.filter_weight == 0 else config.filter,
            filter_weight=config.filter_weight or 0.0,
        )

    def publish(
        self, embeddings: Embeddings, dataset: Dataset, filtered: tuple[Vectors, Vectors] | None = None
    ) -> Embeddings:
        """Vectors whose dot product is the score.

        A user without a training interaction, whose trained vector is random, gets the mean of the other users.

        Args:
            filtered: the graph filter's vectors of users and items; by default those of this data.
        """
        users, items = embeddings
        if self.cosine:
            users, items = functional.normalize(users, dim=-1), functional.normalize(items, dim=-1)
        if self.popularity_prior:
            prior = self.popularity_prior * torch.from_numpy(np.log1p(dataset.item_counts)).to(items)
            users = torch.cat([users, torch.ones_like(users[:, :1])], dim=1)
            items = torch.cat([items, prior[:, None]], dim=1)
        if self.filter is not None:
            parts = filtered or dataset.derived(filter_embeddings, self.filter)
            of_users, of_items = (torch.from_numpy(part).to(items) for part in parts)
            users = torch.cat([users, of_users], dim=1)
            items = torch.cat([items, self.filter_weight * of_items], dim=1)
        trained = torch.zeros(len(users), dtype=torch.bool, device=users.device)
        trained[torch.from_numpy(dataset.train[:, 0]).to(users.device)] = True
        return Embeddings(torch.where(trained[:, None], users, users[trained].mean(0)), items)

    def scorer(self, embeddings: Embeddings, dataset: Dataset) -> Scorer:
        """Scores of the vectors that would be published."""
        score = self if self.filter_weight else replace(self, filter=None)  # coordinates of zeros only cost time
        return dot_products(score.publish(embeddings, dataset))


def dot_products(published: Embeddings) -> Scorer:
    """The score of published vectors."""
    users, items = published

    def scorer(rows: Rows) -> Tensor:
        return torch.mm(users[torch.from_numpy(rows).to(users.device)], items.T)

    return scorer


def choose_filter_weight(
    score: Score, unfiltered: float, embeddings: Embeddings, dataset: Dataset, config: EvaluationConfig
) -> tuple[Score, float]:
    """The score with the filter weight that ranks validation best, and its validation metric; the smallest of equals.

    Args:
        unfiltered: the validation metric of weight 0.
    """
    values = {0.0: unfiltered}
    for weight in FILTER_WEIGHTS:
        scorer = replace(score, filter_weight=weight).scorer(embeddings, dataset)
        values[weight] = selection(scorer, dataset, config)
    best = max(values, key=lambda weight: values[weight])
    return replace(score, filter_weight=best), values[best]
