"""How well a training's item weights find items that nobody has chosen, beside content neighbours and chance."""

import logging

import scipy.sparse as sp

from schemas.baselines import ContentKNNConfig
from schemas.training import CM3Config
from trainers.baselines.content_knn import content_knn
from trainers.baselines.random_ranking import random_ranking
from trainers.data import Dataset
from trainers.evaluation import Ranking
from trainers.hidden_items import hide, judged
from trainers.item_weights.choose import Choice
from trainers.item_weights.fit import scorer_without

logger = logging.getLogger(__name__)

MOST_ITEMS = 50_000
"""Above, content neighbours are left out: they compare every item with every other."""


def cold_rankings(
    dataset: Dataset, weights: sp.csr_matrix, choice: Choice | None, config: CM3Config
) -> dict[str, dict[str, Ranking]]:
    """Recommender → "cold" and "cold_only" → how it ranks hidden items; empty where no user could be judged.

    The weights stand alone here: trained vectors that had never seen the hidden items would take a second training.

    Args:
        weights: of `dataset`'s training interactions, as published.
        choice: what validation chose of them; None where the configuration has none.
    """
    hidden = hide(dataset)
    if hidden is None:
        return {}
    scorers = {"random": random_ranking(hidden.dataset)}
    if len(dataset.items) <= MOST_ITEMS:
        scorers["content-knn"] = content_knn(hidden.dataset, ContentKNNConfig(modality_weights=config.modality_weights))
    else:
        logger.info("cold items: content neighbours of %d items are left out", len(dataset.items))
    if choice is not None and choice.factor and config.item_weights is not None:
        scorers["item-weights"] = scorer_without(hidden.dataset, weights, hidden.items, choice, config.item_weights)
    return {name: judged(scorer, hidden, config.evaluation) for name, scorer in scorers.items()}
