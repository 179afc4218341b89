"""The features' weights in the fused similarity: fixed, or learned from what users choose together."""

import logging
from collections.abc import Mapping

import numpy as np
import polars
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.similarity.layout import Layout
from pipeline.similarity.vectors import Ints
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.similarity import SimilarityConfig

logger = logging.getLogger(__name__)
PAIRS = 100_000
"""Most co-chosen pairs that are learned from; more are sampled."""
FEW = 50
"""With fewer pairs than this, weights stay equal."""


def fixed(config: SimilarityConfig, features: Mapping[str, TableVersion]) -> dict[str, float]:
    """The configured weight of each feature; equal weights where none is configured.

    Raises:
        UserError: the weights do not name exactly the features.
    """
    if not config.weights:
        return dict.fromkeys(features, 1.0)
    if set(config.weights) != set(features):
        raise UserError(
            f"similarity.weights names {sorted(config.weights)}, but the features are {sorted(features)}; "
            "expected a weight for each feature and no other."
        )
    return dict(config.weights)


def learned(layout: Layout, interactions: pa.Table, seed: int = 0) -> dict[str, float]:
    """Weights, of sum 1, for which the weighted mean of cosines best separates co-chosen pairs from random ones.

    A logistic regression with coefficients of at least 0: its positives pair what a user chose in training with what
    the same user chose in validation, its negatives pair the same items at random, so that popularity tells nothing.
    Test interactions are not read. Only items that have every feature are used.
    """
    names = [feature.name for feature in layout.features]
    equal = dict.fromkeys(names, 1 / len(names))
    pairs = co_chosen(layout, interactions, np.random.default_rng(seed))
    if len(pairs) < FEW:
        logger.warning("only %d pairs to learn weights from; they stay equal", len(pairs))
        return equal
    shuffled = np.column_stack([pairs[:, 0], np.random.default_rng(seed).permutation(pairs[:, 1])])
    shuffled = shuffled[shuffled[:, 0] != shuffled[:, 1]]
    both = np.vstack([pairs, shuffled])
    cosines = np.column_stack([feature.cosine(both[:, 0], both[:, 1]) for feature in layout.features])
    label = np.repeat([1.0, 0.0], [len(pairs), len(shuffled)])
    coefficients = non_negative_logistic(cosines, label)
    if coefficients.sum() <= 0:
        logger.warning("no feature tells co-chosen items from others; weights stay equal")
        return equal
    return dict(zip(names, (coefficients / coefficients.sum()).round(6).tolist(), strict=True))


def co_chosen(layout: Layout, interactions: pa.Table, rng: np.random.Generator) -> NDArray[np.int64]:
    """(pairs, 2) positions that one user chose, first in training, second in validation; at most `PAIRS` pairs."""
    complete = (1 << len(layout.features)) - 1
    place = polars.DataFrame({"item_id": polars.Series(layout.ids), "position": np.arange(len(layout))})
    frame = polars.DataFrame(interactions).join(place.filter(polars.Series(layout.pattern == complete)), on="item_id")
    train, valid = (frame.filter(polars.col("split") == s).select("user_id", "position") for s in ("train", "valid"))
    valid = valid.sort("user_id", "position")
    if len(valid) > PAIRS:
        valid = valid[np.sort(rng.choice(len(valid), PAIRS, replace=False))]
    joined = train.sort("user_id", "position").join(valid, on="user_id").sort("user_id", "position", "position_right")
    pairs: Ints = joined.select("position", "position_right").to_numpy().astype(np.int64)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs if len(pairs) <= PAIRS else pairs[np.sort(rng.choice(len(pairs), PAIRS, replace=False))]


def non_negative_logistic(
    x: NDArray[np.float64], label: NDArray[np.float64], ridge: float = 1e-4
) -> NDArray[np.float64]:
    """Coefficients, at least 0, of a logistic regression with a free intercept and a slight ridge penalty."""

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = x @ theta[:-1] + theta[-1]
        residual = 1 / (1 + np.exp(-margin)) - label
        value = np.mean(np.logaddexp(0, margin) - label * margin) + ridge * (theta[:-1] ** 2).sum()
        return float(value), np.r_[x.T @ residual / len(x) + 2 * ridge * theta[:-1], residual.mean()]

    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    return np.asarray(minimize(loss, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds).x[:-1])
