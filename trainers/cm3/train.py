"""Train CM3 on Parquet tables and leave embeddings, recommendations and metrics as Parquet."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from schemas.errors import UserError
from schemas.training import CM3Config, TrainingResult, TrainingTables
from trainers.baselines.popularity import popularity
from trainers.cm3.model import CM3
from trainers.data import Dataset, Neighbors, load
from trainers.evaluation import Lists, Ranking, Scorer, evaluate, judge, rank, recommend
from trainers.fit import OnEpoch, fit, torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, user_item_adjacency
from trainers.output import embedding_tables, epoch_table, write_tables

logger = logging.getLogger(__name__)


def run(
    *,
    tables: TrainingTables,
    output: Path,
    config: CM3Config,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Train, evaluate and write.

    Args:
        tables: with one feature or more.
        output: local folder that gets items, users, recommendations, metrics and epochs `.parquet`.
        checkpoint: file that keeps the training state; a run that was killed goes on from it.
    Raises: UserError: an input is unusable, too small, or training diverges.
    """
    dataset = load(tables)
    model = build(dataset, config)
    fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
    embeddings = fitted.score.publish(fitted.embeddings, dataset)
    rankings = {"popularity": _judged(popularity(dataset), dataset, config)[1]}
    lists, rankings[model.name] = _judged(fitted.score.scorer(fitted.embeddings, dataset), dataset, config)
    outputs = embedding_tables(embeddings, dataset)
    outputs["recommendations"] = recommend(lists, dataset, config.top_k)
    outputs["metrics"] = pa.concat_tables(
        ranking.table(name, config.seed, split)
        for name, by_split in rankings.items()
        for split, ranking in by_split.items()
    )
    outputs["epochs"] = epoch_table(fitted.curve, model.name, config.seed)
    return TrainingResult(
        model=model.name,
        files=write_tables(outputs, output),
        best_epoch=fitted.best_epoch,
        epochs=fitted.epochs,
        validation=fitted.validation,
        test=rankings[model.name]["test"].flat(),
        popularity=rankings["popularity"]["test"].flat(),
        seconds=fitted.seconds,
        items=len(dataset.items),
        users=len(dataset.users),
        parameters=fitted.parameters,
        dim=embeddings.items.shape[1],
    )


def build(dataset: Dataset, config: CM3Config) -> CM3:
    """The model with its two frozen graphs, parameters drawn from the seed. Raises: UserError: no feature."""
    if not dataset.features:
        raise UserError("features: CM3 needs at least 1 feature table, found none. Choose features, e.g. text.")
    device = torch_device(config.device)
    neighbors = _neighbors(dataset, config.neighbors)
    user_item = user_item_adjacency(dataset.matrix("train"))
    item_item = item_item_adjacency(neighbors, dataset.features, k=config.neighbors, weights=config.modality_weights)
    with torch.random.fork_rng(devices=[]):
        return CM3(dataset, config, Graph.of(user_item, device), Graph.of(item_item, device))


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


def _judged(scorer: Scorer, dataset: Dataset, config: CM3Config) -> tuple[Lists, dict[str, Ranking]]:
    """All users' lists, and their metrics on validation and test; ranked once, since that takes long."""
    rule = config.evaluation
    lists = rank(scorer, dataset, max(config.top_k, *rule.cutoffs), rule.block)
    rankings = {split: judge(lists, dataset, split, rule) for split in ("valid", "test")}
    if rule.mask_validation:  # then test has lists of its own
        rankings["test"] = evaluate(scorer, dataset, "test", rule)
    return lists, rankings
