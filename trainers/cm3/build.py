"""The network with its two frozen graphs, from a data set."""

import logging

import numpy as np
import torch

from schemas.errors import UserError
from schemas.training import CM3Config
from trainers.cm3.model import CM3, FeatureDirections
from trainers.data import Dataset, Neighbors
from trainers.fit import torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, user_item_adjacency
from trainers.processes import ALONE, Processes

logger = logging.getLogger(__name__)


def build(
    dataset: Dataset, config: CM3Config, directions: FeatureDirections | None = None, processes: Processes = ALONE
) -> CM3:
    """The model with its two frozen graphs, parameters drawn from the seed.

    Args:
        directions, processes: see `CM3`.
    Raises: UserError: no feature; or a share of one of the processes would be empty, or lie on a GPU.
    """
    if not dataset.features:
        raise UserError("features: CM3 needs at least 1 feature table, found none. Choose features, e.g. sentence.")
    device = torch_device(config.device)
    if processes.count > 1:
        _refuse_what_cannot_be_dealt(dataset, config, processes.count, device)
    neighbors = _neighbors(dataset, config.neighbors)
    user_item = user_item_adjacency(dataset.matrix("train"))
    item_item = item_item_adjacency(neighbors, dataset.features, k=config.neighbors, weights=config.modality_weights)
    with torch.random.fork_rng(devices=[]):
        return CM3(dataset, config, Graph.of(user_item, device), Graph.of(item_item, device), directions, processes)


def _refuse_what_cannot_be_dealt(dataset: Dataset, config: CM3Config, count: int, device: torch.device) -> None:
    width = (len(dataset.features) + config.fusion) * config.dim
    for name, most in (("users", len(dataset.users)), ("items", len(dataset.items)), ("coordinates", width)):
        if count > most:
            raise UserError(
                f"processes: expected at most {most}, the number of {name}, which they share; found {count}. "
                "Train in fewer processes."
            )
    if device.type != "cpu":
        raise UserError(
            f"device: expected cpu, where several processes train together, found {device}. Set device cpu, or "
            "processes 1."
        )


def _neighbors(dataset: Dataset, k: int) -> Neighbors:
    """Those of the similarity table, else computed here."""
    neighbors = dataset.neighbors
    if neighbors is None:
        logger.info("no similarity table given: computing each modality's %d nearest neighbours", k)
        return exact_neighbors(dataset.features, k=k - 1)
    most = np.bincount(neighbors.item, minlength=1).max()
    if most < min(k, len(dataset.items)) - 1:
        message = "the similarity table has at most %d neighbours per item, neighbors=%d; raise its k to use more"
        logger.warning(message, most, k)
    return neighbors
