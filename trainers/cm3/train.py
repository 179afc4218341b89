"""Train CM3 on Parquet tables and leave embeddings, recommendations and metrics as Parquet."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import scipy.sparse as sp
import torch

from schemas.model import MODEL, BorrowedWeights
from schemas.training import CM3Config, TrainingResult, TrainingTables
from trainers.baselines.popularity import popularity
from trainers.cm3.build import build
from trainers.cm3.cold import cold_rankings
from trainers.cm3.deliver import Delivered, lists, of_catalogue
from trainers.cm3.model import CM3
from trainers.cm3.trained import TrainedModel, rows_of
from trainers.data import Dataset, load
from trainers.evaluation import Ranking, Rows, Scorer, evaluate, judge, rank
from trainers.fit import FittedModel, OnEpoch, fit, refit
from trainers.item_weights.choose import Choice
from trainers.item_weights.fit import item_weights, lenders_weight, no_weights
from trainers.item_weights.ridge import Workers
from trainers.item_weights.term import choose_weights, with_weights
from trainers.output import embedding_tables, epoch_table, item_weights_tables, write_tables
from trainers.processes import ALONE, Processes


def run(
    *,
    tables: TrainingTables,
    output: Path,
    config: CM3Config,
    never_shown: Collection[str] = (),
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    workers: Workers | None = None,
    processes: Processes = ALONE,
) -> TrainingResult:
    """Train, measure, train once more on everything, and write.

    Two phases. Measure: train on the split, choose the epoch and the weights on validation, judge on test. Deliver
    (`config.refit`): train on all interactions with what was chosen, and give every item of the catalogue its vector.

    Args:
        tables: with one feature or more.
        never_shown: ids of items that stand in no recommendation; metrics are measured with them.
        output: local folder that gets items, users, item_weights, recommendations, metrics and epochs `.parquet`, and
            the folder `model`.
        checkpoint: file that keeps the training state; a run that was killed goes on from it.
        on_epoch: the epochs of the second phase are counted on from those of the first.
        workers: other processes that solve the item weights' columns.
        processes: which train together. This is what the first of them does; the others call `follow` meanwhile.
    Raises: UserError: an input is unusable, too small, or training diverges.
    """
    catalogue = load(tables)
    core = catalogue.core()
    measured = measure(core, config, checkpoint=checkpoint, on_epoch=on_epoch, workers=workers, processes=processes)
    fitted = measured.fitted
    hidden = catalogue.rows_of(never_shown)
    delivered = deliver(
        catalogue,
        core,
        measured,
        config,
        hidden=hidden,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        workers=workers,
    )
    delivered.model.save(output / MODEL)
    outputs = embedding_tables(delivered.embeddings, catalogue)
    outputs["item_weights"] = item_weights_tables(delivered.weights, catalogue.items)
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
        trained=str(output / MODEL),
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


def follow(*, tables: TrainingTables, config: CM3Config, checkpoint: Path | None, processes: Processes) -> None:
    """What every process but the first does of `run`: both trainings, on its own share."""
    core = load(tables).core()
    network = build(core, config, processes=processes)
    fitted = fit(network, core, config, checkpoint=checkpoint)
    if config.refit:
        core = core.all_for_training()
        network = build(core, config, processes=processes)
        refit(network, core, config, fitted.best_epoch, checkpoint=_of_refit(checkpoint))
    network.whole_parameters()


@dataclass(frozen=True)
class Measured:
    """The first phase: what was trained on the split, what validation chose, and how it ranks.

    Attributes:
        choice: of the item–item weights; None where the configuration has none.
        weights: of the training interactions, (items, items).
        validation: the selection metric of the whole score.
        rankings: recommender → split → its ranking; the splits of hidden items among them.
    """

    model: CM3
    fitted: FittedModel
    choice: Choice | None
    weights: sp.csr_matrix
    validation: float
    rankings: dict[str, dict[str, Ranking]]


def measure(
    dataset: Dataset,
    config: CM3Config,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    workers: Workers | None = None,
    processes: Processes = ALONE,
) -> Measured:
    """Train on the split, choose on validation, judge on validation and test."""
    model = build(dataset, config, processes=processes)
    fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
    scorer, choice, weights = fitted.score.scorer(fitted.embeddings, dataset), None, no_weights(dataset)
    if config.item_weights is not None:
        choice, weights = choose_weights(dataset, scorer, config.item_weights, config.evaluation, workers)
        scorer = with_weights(scorer, weights, dataset.matrix("train"))
    rankings = {"popularity": _judged(popularity(dataset), dataset, config), CM3.name: _judged(scorer, dataset, config)}
    rankings |= cold_rankings(dataset, weights, choice, config)
    rule = config.evaluation
    validation = rankings[CM3.name]["valid"].values[rule.selection_metric, rule.selection_k]
    return Measured(model, fitted, choice, weights, validation, rankings)


def deliver(
    catalogue: Dataset,
    core: Dataset,
    measured: Measured,
    config: CM3Config,
    *,
    hidden: Rows,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    workers: Workers | None = None,
) -> Delivered:
    """Vectors, weights and lists from all interactions; with `config.refit` off, from what was measured.

    Args:
        hidden: rows of items that stand in no list.
    """
    network, embeddings, everything = measured.model, measured.fitted.embeddings, catalogue.all_for_training()
    split, solved = catalogue, _of_catalogue(measured.weights, core, catalogue)
    if config.refit:
        catalogue, core = everything, core.all_for_training()
        network = build(core, config, processes=network.processes)
        embeddings = refit(
            network,
            core,
            config,
            measured.fitted.best_epoch,
            checkpoint=_of_refit(checkpoint),
            on_epoch=_after(measured.fitted, on_epoch),
        )
    weights, borrowed = no_weights(catalogue), None
    if measured.choice is not None and config.item_weights is not None and measured.choice.factor:
        themselves = lenders_weight(split, solved, measured.choice, config.item_weights)
        weights = item_weights(
            catalogue,
            measured.choice,
            config.item_weights,
            torch.get_num_threads(),
            themselves,
            solved=None if config.refit else solved,
            workers=workers,
        ).matrix
        borrowed = BorrowedWeights(shares=measured.choice.shares, themselves=themselves)
    model = TrainedModel.of(network, core, measured.fitted.score, borrowed)
    published = of_catalogue(model, embeddings, core, catalogue)
    recommendations = lists(published, weights, catalogue, everything, config, hidden)
    return Delivered(model, published, weights, recommendations)


def _of_catalogue(weights: sp.csr_matrix, core: Dataset, catalogue: Dataset) -> sp.csr_matrix:
    """The weights between items of `core` in the rows of `catalogue`."""
    if len(core.items) == len(catalogue.items):
        return weights
    rows, entries = rows_of(core.items, catalogue.items), weights.tocoo()
    count = len(catalogue.items)
    return sp.csr_matrix((entries.data, (rows[entries.row], rows[entries.col])), shape=(count, count))


def _of_refit(checkpoint: Path | None) -> Path | None:
    """Where the second phase keeps its state."""
    return None if checkpoint is None else checkpoint.with_name(f"refit-{checkpoint.name}")


def _after(fitted: FittedModel, on_epoch: OnEpoch | None) -> OnEpoch | None:
    """Epochs of the second phase, counted on from those of the first."""
    return None if on_epoch is None else lambda epoch, terms: on_epoch(fitted.epochs + epoch, terms)


def _judged(scorer: Scorer, dataset: Dataset, config: CM3Config) -> dict[str, Ranking]:
    """The metrics on validation and test; all users are ranked once, since that takes long."""
    rule = config.evaluation
    lists = rank(scorer, dataset, max(rule.cutoffs), rule.block)
    rankings = {split: judge(lists, dataset, split, rule) for split in ("valid", "test")}
    if rule.mask_validation:  # then test has lists of its own
        rankings["test"] = evaluate(scorer, dataset, "test", rule)
    return rankings
