"""Train CM3 on Parquet tables and leave embeddings, recommendations and metrics as Parquet."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from torch.nn import functional

from schemas.errors import UserError
from schemas.training import CM3Config, TrainingResult, TrainingTables
from trainers.baselines.popularity import popularity
from trainers.cm3.model import CM3
from trainers.data import Dataset, Neighbors, load
from trainers.evaluation import Ranking, Scorer, evaluate, judge, rank, recommend
from trainers.fit import FittedModel, OnEpoch, fit, refit, torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, user_item_adjacency
from trainers.item_weights.choose import Choice
from trainers.item_weights.fit import item_weights, no_weights
from trainers.item_weights.term import choose_weights, reasons, with_weights
from trainers.output import embedding_tables, epoch_table, item_weights_table, write_tables
from trainers.scores import Embeddings, Score, dot_products

logger = logging.getLogger(__name__)


def run(
    *,
    tables: TrainingTables,
    output: Path,
    config: CM3Config,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Train, measure, train once more on everything, and write.

    Two phases. Measure: train on the split, choose the epoch and the weights on validation, judge on test. Deliver
    (`config.refit`): train on all interactions with what was chosen, and give every item of the catalogue its vector.

    Args:
        tables: with one feature or more.
        output: local folder that gets items, users, item_weights, recommendations, metrics and epochs `.parquet`.
        checkpoint: file that keeps the training state; a run that was killed goes on from it.
        on_epoch: the epochs of the second phase are counted on from those of the first.
    Raises: UserError: an input is unusable, too small, or training diverges.
    """
    catalogue = load(tables)
    core = catalogue.core()
    measured = measure(core, config, checkpoint=checkpoint, on_epoch=on_epoch)
    fitted = measured.fitted
    delivered = deliver(catalogue, core, measured, config, checkpoint=checkpoint, on_epoch=on_epoch)
    outputs = embedding_tables(delivered.embeddings, catalogue)
    outputs["item_weights"] = item_weights_table(delivered.weights, catalogue.items)
    outputs["recommendations"] = delivered.recommendations
    outputs["metrics"] = pa.concat_tables(
        ranking.table(name, config.seed, split)
        for name, by_split in measured.rankings.items()
        for split, ranking in by_split.items()
    )
    outputs["epochs"] = epoch_table(fitted.curve, CM3.name, config.seed)
    return TrainingResult(
        model=CM3.name,
        files=write_tables(outputs, output),
        best_epoch=fitted.best_epoch,
        epochs=fitted.epochs,
        validation=measured.validation,
        test=measured.rankings[CM3.name]["test"].flat(),
        popularity=measured.rankings["popularity"]["test"].flat(),
        seconds=fitted.seconds,
        items=len(catalogue.items),
        users=len(catalogue.users),
        parameters=fitted.parameters,
        dim=delivered.embeddings.items.shape[1],
    )


@dataclass(frozen=True)
class Measured:
    """The first phase: what was trained on the split, what validation chose, and how it ranks.

    Attributes:
        choice: of the item–item weights; None where the configuration has none.
        validation: the selection metric of the whole score.
        rankings: recommender → split → its ranking.
    """

    model: CM3
    fitted: FittedModel
    choice: Choice | None
    validation: float
    rankings: dict[str, dict[str, Ranking]]


def measure(
    dataset: Dataset, config: CM3Config, *, checkpoint: Path | None = None, on_epoch: OnEpoch | None = None
) -> Measured:
    """Train on the split, choose on validation, judge on validation and test."""
    model = build(dataset, config)
    fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
    scorer, choice = fitted.score.scorer(fitted.embeddings, dataset), None
    if config.item_weights is not None:
        choice, weights = choose_weights(dataset, scorer, config.item_weights, config.evaluation)
        scorer = with_weights(scorer, weights, dataset.matrix("train"))
    rankings = {"popularity": _judged(popularity(dataset), dataset, config), CM3.name: _judged(scorer, dataset, config)}
    rule = config.evaluation
    validation = rankings[CM3.name]["valid"].values[rule.selection_metric, rule.selection_k]
    return Measured(model, fitted, choice, validation, rankings)


class Delivered(NamedTuple):
    """What is published for production: of every user and every item of the catalogue."""

    embeddings: Embeddings
    weights: sp.csr_matrix
    recommendations: pa.Table


def deliver(
    catalogue: Dataset,
    core: Dataset,
    measured: Measured,
    config: CM3Config,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Delivered:
    """Vectors, weights and lists from all interactions; with `config.refit` off, from what was measured."""
    model, embeddings, everything = measured.model, measured.fitted.embeddings, catalogue.all_for_training()
    split = catalogue
    if config.refit:
        catalogue, core = everything, core.all_for_training()
        model = build(core, config)
        state = None if checkpoint is None else checkpoint.with_name(f"refit-{checkpoint.name}")
        embeddings = refit(
            model,
            core,
            config,
            measured.fitted.best_epoch,
            checkpoint=state,
            on_epoch=_after(measured.fitted, on_epoch),
        )
    published = of_catalogue(model, measured.fitted.score, embeddings, core, catalogue, config)
    weights = no_weights(catalogue)
    if measured.choice is not None and config.item_weights is not None:
        weights = item_weights(
            catalogue, measured.choice, config.item_weights, torch.get_num_threads(), judged_on=split
        )
    chosen = catalogue.matrix("train")
    scorer = with_weights(dot_products(published), weights, chosen)
    left_out = {"all": everything.matrix("train"), "train": chosen, "none": sp.csr_matrix(chosen.shape)}[config.exclude]
    lists = rank(scorer, catalogue, config.top_k, config.evaluation.block, left_out=left_out)
    why = reasons(lists, config.top_k, weights, chosen)
    return Delivered(published, weights, recommend(lists, catalogue, config.top_k, why))


def _after(fitted: FittedModel, on_epoch: OnEpoch | None) -> OnEpoch | None:
    """Epochs of the second phase, counted on from those of the first."""
    return None if on_epoch is None else lambda epoch, terms: on_epoch(fitted.epochs + epoch, terms)


def of_catalogue(
    model: CM3, score: Score, embeddings: Embeddings, core: Dataset, catalogue: Dataset, config: CM3Config
) -> Embeddings:
    """The published vectors of all items: of those trained on as they are, of the others from their content.

    An item without interactions has no edge to users: its vector is its blocks and those of its neighbours in content,
    with zeros in the coordinates of the score's other terms, which say how often it is chosen.
    """
    users, trained = score.publish(embeddings, core)
    if len(core.items) == len(catalogue.items):
        return Embeddings(users, trained)
    whole = build(catalogue, config, fitted_on=core)
    whole.load_state_dict(model.state_dict())
    whole.to(trained.device).eval()
    items = whole.embeddings().items.detach()
    width = items.shape[1]
    if score.cosine:
        items = functional.normalize(items, dim=-1)
    items = torch.cat([items, items.new_zeros(len(items), trained.shape[1] - width)], dim=1)
    row = {item: number for number, item in enumerate(catalogue.items)}
    items[torch.tensor([row[item] for item in core.items], device=items.device)] = trained
    return Embeddings(users, items)


def build(dataset: Dataset, config: CM3Config, fitted_on: Dataset | None = None) -> CM3:
    """The model with its two frozen graphs, parameters drawn from the seed.

    Args:
        fitted_on: see `CM3`.
    Raises: UserError: no feature.
    """
    if not dataset.features:
        raise UserError("features: CM3 needs at least 1 feature table, found none. Choose features, e.g. text.")
    device = torch_device(config.device)
    neighbors = _neighbors(dataset, config.neighbors)
    user_item = user_item_adjacency(dataset.matrix("train"))
    item_item = item_item_adjacency(neighbors, dataset.features, k=config.neighbors, weights=config.modality_weights)
    with torch.random.fork_rng(devices=[]):
        return CM3(dataset, config, Graph.of(user_item, device), Graph.of(item_item, device), fitted_on)


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


def _judged(scorer: Scorer, dataset: Dataset, config: CM3Config) -> dict[str, Ranking]:
    """The metrics on validation and test; all users are ranked once, since that takes long."""
    rule = config.evaluation
    lists = rank(scorer, dataset, max(rule.cutoffs), rule.block)
    rankings = {split: judge(lists, dataset, split, rule) for split in ("valid", "test")}
    if rule.mask_validation:  # then test has lists of its own
        rankings["test"] = evaluate(scorer, dataset, "test", rule)
    return rankings
