"""Train CM3 on Parquet tables and leave embeddings, recommendations and metrics as Parquet."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from schemas.errors import UserError
from schemas.training import CM3Config, TrainingResult
from trainers.baselines.popularity import popularity
from trainers.cm3.model import CM3
from trainers.data import Dataset, load
from trainers.evaluation import Lists, Ranking, Scorer, evaluate, judge, rank, recommend
from trainers.fit import fit, torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, user_item_adjacency
from trainers.output import embedding_tables, epoch_table, write_tables
from trainers.scores import embedding_scorer, published_embeddings

logger = logging.getLogger(__name__)


def run(
    *,
    interactions: str,
    features: dict[str, str],
    similarity: str | None,
    output: Path,
    config: CM3Config,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train, evaluate and write.

    Args:
        interactions: Parquet folder (path or URI) of the interactions table, with its splits.
        features: name → Parquet folder of that feature table; one or more.
        similarity: Parquet folder of the similarity table over these features; None computes neighbours here.
        output: local folder that gets items, users, recommendations, metrics and epochs `.parquet`.
        checkpoint: file to go on from and to keep the training state in.
        on_epoch: told the epoch (from 1), its loss terms and validation metric.
    Raises: UserError: an input is unusable, too small, or training diverges.
    """
    dataset = load(interactions=interactions, features=features, similarity=similarity)
    model = build(dataset, config)
    fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
    embeddings = published_embeddings(fitted.embeddings, dataset, config, fitted.filter_weight)
    rankings = {"popularity": _judged(popularity(dataset), dataset, config)[1]}
    scorer = embedding_scorer(fitted.embeddings, dataset, config, fitted.filter_weight)
    lists, rankings[model.name] = _judged(scorer, dataset, config)
    tables = embedding_tables(embeddings, dataset)
    tables["recommendations"] = recommend(lists, dataset, config.top_k)
    tables["metrics"] = pa.concat_tables(
        ranking.table(name, config.seed, split)
        for name, by_split in rankings.items()
        for split, ranking in by_split.items()
    )
    tables["epochs"] = epoch_table(fitted.curve, model.name, config.seed)
    return TrainingResult(
        model=model.name,
        files=write_tables(tables, output),
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


def _judged(scorer: Scorer, dataset: Dataset, config: CM3Config) -> tuple[Lists, dict[str, Ranking]]:
    """Everybody's lists, and how they do on validation and test; ranked once, which is what takes long."""
    rule = config.evaluation
    lists = rank(scorer, dataset, max(config.top_k, *rule.cutoffs), rule.block)
    rankings = {split: judge(lists, dataset, split, rule) for split in ("valid", "test")}
    if rule.mask_validation:  # then the lists for test are others
        rankings["test"] = evaluate(scorer, dataset, "test", rule)
    return lists, rankings


def build(dataset: Dataset, config: CM3Config) -> CM3:
    """The model with its two frozen graphs, parameters drawn from the seed. Raises: UserError: no feature."""
    if not dataset.features:
        raise UserError("features: CM3 needs at least 1 feature table, found none. Choose features, e.g. text.")
    device = torch_device(config.device)
    neighbors = dataset.neighbors
    if neighbors is None:
        logger.info("no similarity table given: computing each modality's %d nearest neighbours", config.neighbors)
        neighbors = exact_neighbors(dataset.features, k=config.neighbors - 1)
    elif (most := np.bincount(neighbors.item, minlength=1).max()) < min(config.neighbors, len(dataset.items)) - 1:
        logger.warning("the similarity table has at most %d neighbours an item, neighbors=%d; raise its k to use more",
                       most, config.neighbors)  # fmt: skip
    user_item = user_item_adjacency(dataset.matrix("train"))
    item_item = item_item_adjacency(neighbors, dataset.features, k=config.neighbors, weights=config.modality_weights)
    with torch.random.fork_rng(devices=[]):
        return CM3(config, dataset, Graph.of(user_item, device), Graph.of(item_item, device))
