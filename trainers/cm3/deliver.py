"""What is published for production: vectors, weights and lists of every user and every item of the catalogue."""

from dataclasses import dataclass

import pyarrow as pa
import scipy.sparse as sp
import torch

from schemas.training import CM3Config
from trainers.cm3.trained import TrainedModel, rows_of
from trainers.data import Dataset
from trainers.evaluation import Rows, rank, recommend, without
from trainers.item_weights.term import reasons, with_weights
from trainers.scores import Embeddings, dot_products


@dataclass(frozen=True)
class Delivered:
    """The outcome of a training for production.

    Attributes:
        model: gives the same vectors again (`vectors_of`).
    """

    model: TrainedModel
    embeddings: Embeddings
    weights: sp.csr_matrix
    recommendations: pa.Table


def of_catalogue(model: TrainedModel, trained: Embeddings, core: Dataset, catalogue: Dataset) -> Embeddings:
    """The published vectors of all items: of those trained on as they are, of the others from their content.

    An item without interactions has no edge to users: its vector is its blocks and those of its neighbours in content,
    with zeros in the coordinates of the score's other terms, which say how often it is chosen.

    Args:
        trained: the network's vectors of the users and items of `core`.
    """
    users, items = model.score.publish(trained, core)
    if len(core.items) == len(catalogue.items):
        return Embeddings(users, items)
    whole = model.vectors(catalogue).items
    whole[torch.from_numpy(rows_of(core.items, catalogue.items)).to(whole.device)] = items
    return Embeddings(users, whole)


def vectors_of(model: TrainedModel, catalogue: Dataset) -> Embeddings:
    """What a training on `catalogue` published, from the model that it left.

    With `published` in its configuration the published vectors are those of its last step, which no model gives again.
    """
    if model.description.config.refit:
        catalogue = catalogue.all_for_training()
    core = catalogue.core()
    return of_catalogue(model, model.network(core).embeddings(), core, catalogue)


def lists(
    embeddings: Embeddings,
    weights: sp.csr_matrix,
    catalogue: Dataset,
    everything: Dataset,
    config: CM3Config,
    hidden: Rows,
) -> pa.Table:
    """The recommendations table.

    Args:
        catalogue: whose `train` counts as chosen.
        everything: the same users and items with every interaction in `train`.
        hidden: rows of items that stand in no list.
    """
    chosen = catalogue.matrix("train")
    scorer = without(with_weights(dot_products(embeddings), weights, chosen), hidden)
    left_out = {"all": everything.matrix("train"), "train": chosen, "none": sp.csr_matrix(chosen.shape)}[config.exclude]
    ranked = rank(scorer, catalogue, config.top_k, config.evaluation.block, left_out=left_out)
    return recommend(ranked, catalogue, config.top_k, reasons(ranked, config.top_k, weights, chosen))
