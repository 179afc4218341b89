"""Recommenders side by side: same data, selection and evaluator, several seeds, significance against CM3."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from schemas.errors import TooFewInteractionsError, UserError
from schemas.tables import METRICS
from schemas.training import ComparisonConfig, ComparisonRow, EvaluationConfig, TrainingTables
from trainers import significance
from trainers.checkpoint import run_key
from trainers.data import Dataset, load, modality_shares
from trainers.evaluation import Ranking, evaluate
from trainers.hidden_items import hide, judged
from trainers.lists import GivenLists
from trainers.output import write_tables
from trainers.recommenders import RECOMMENDERS, recommender

logger = logging.getLogger(__name__)

COMPARISON = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("runs", pa.int32(), nullable=False),
        pa.field("validation", pa.float64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("spread", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("p_value", pa.float64()),
        pa.field("p_holm", pa.float64()),
        pa.field("ahead", pa.float64()),
        pa.field("ahead_low", pa.float64()),
        pa.field("ahead_high", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("parameters", pa.int64(), nullable=False),
    ]
)

PAPER_SCORE = {"score": "dot", "popularity_prior": 0.0, "smoothing": 0.0, "filter_weight": 0.0, "item_weights": None}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no calibration": {"calibration": "none"},
    "fused calibration": {"calibration": "fused"},
    "no fusion": {"fusion": False},
    "no prior": {"popularity_prior": 0.0},
    "no smoothing": {"smoothing": 0.0},
    "no filter": {"filter_weight": 0.0},
    "no item weights": {"item_weights": None},
    "paper's score": PAPER_SCORE,
    "as published": PAPER_SCORE | {"published": True},
}
"""What the row's label says of CM3 → the parameters that differ."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the comparison before its training: which recommender, its parameters, the features it may see."""

    label: str
    model: str
    values: dict[str, Any]
    features: tuple[str, ...]


def run(
    *,
    tables: TrainingTables,
    output: Path,
    finished: Path,
    config: ComparisonConfig,
    on_plan: Callable[[int], None] | None = None,
    on_run: Callable[[str, int, float], None] | None = None,
) -> list[ComparisonRow]:
    """Train each recommender with each seed and compare them on test.

    Each training's outcome is kept in `finished`, named by data, recommender, parameters and seed: a killed comparison
    goes on where it stopped, and one with another recommender or more seeds trains only those.

    Args:
        output: local folder that gets comparison and metrics `.parquet`.
        finished: local folder of finished trainings, of this comparison and others.
        on_plan: told the number of trainings before the first.
        on_run: told the model, the seed and the validation metric after each training.
    Returns: one row per recommender and ablation, best mean first.
    Raises: UserError: an unknown recommender or parameter, or unusable data or lists.
    """
    config = name_all(config)
    dataset = load(tables).core()
    entries = list(_entries(config, tuple(dataset.features)))
    for name, values in config.overrides.items():  # also of recommenders not compared: the name may be misspelt
        recommender(name).configure(values)
    if shared := sorted({entry.label for entry in entries} & set(config.lists)):
        raise UserError(f"lists: {shared} are names of rows of the comparison already. Rename the files.")
    given = [GivenLists(uri, dataset, label) for label, uri in config.lists.items()]
    for entry in entries:  # a misspelt parameter is refused before the first training
        recommender(entry.model).configure(entry.values)
        modality_shares(entry.values.get("modality_weights"), dataset.features)
    seeds = {entry.label: config.seeds[: None if recommender(entry.model).build else 1] for entry in entries}
    if on_plan is not None:
        on_plan(sum(map(len, seeds.values())))
    results: dict[str, list[FinishedTraining]] = {}
    for entry in entries:
        for seed in seeds[entry.label]:
            training = train(entry, seed, dataset, config, finished)
            results.setdefault(entry.label, []).append(training)
            logger.info("%s, seed %d: validation %.4f", entry.label, seed, training.validation)
            if on_run is not None:
                on_run(entry.label, seed, training.validation)
    results |= {lists.label: [_judge_lists(lists, config)] for lists in given}
    cold = {entry.label: _judge_cold(entry, dataset, config, finished) for entry in entries}
    rows = sorted(_rows(results, cold, config), key=lambda row: -row.mean)
    records = [row.model_dump(exclude={"metrics", "cold"}) for row in rows]
    table = pa.Table.from_pylist(records, schema=COMPARISON)
    metrics = [row for trainings in results.values() for training in trainings for row in training.rows]
    metrics += [row for of_label in cold.values() for row in of_label]
    write_tables({"comparison": table, "metrics": pa.Table.from_pylist(metrics, schema=METRICS)}, output)
    return rows


def name_all(config: ComparisonConfig) -> ComparisonConfig:
    """The same configuration, with every recommender named where it names none."""
    return config if config.models else config.model_copy(update={"models": tuple(RECOMMENDERS)})


def _entries(config: ComparisonConfig, features: tuple[str, ...]) -> Iterator[Entry]:
    for name in config.models:
        base = config.cm3.model_dump() if name == "cm3" else {}
        yield Entry(name, name, base | config.overrides.get(name, {}), features)
    if not config.ablations:
        return
    cm3 = config.cm3.model_dump() | config.overrides.get("cm3", {})
    for label, changes in ABLATIONS.items():
        yield Entry(f"cm3 {label}", "cm3", cm3 | changes, features)
    for name in features if len(features) > 1 else ():
        yield Entry(f"cm3 {name} alone", "cm3", cm3, (name,))
    for name in features if len(features) > 2 else ():
        yield Entry(f"cm3 without {name}", "cm3", cm3, tuple(other for other in features if other != name))


def train(entry: Entry, seed: int, dataset: Dataset, config: ComparisonConfig, finished: Path) -> "FinishedTraining":
    """Fit on the entry's features alone, and rank validation and test; or read what that gave before."""
    visible = with_features(dataset, entry.features)
    model, evaluation = recommender(entry.model), config.cm3.evaluation
    parameters = model.configure(_values(entry, seed))
    key = run_key(entry.model, visible, parameters, label=entry.label, evaluation=evaluation.model_dump(mode="json"))
    path = finished / f"{key}.json"
    if path.exists():
        return FinishedTraining.model_validate_json(path.read_bytes())
    checkpoint = path.with_suffix(".pt")
    fitted = model.fit(visible, parameters, evaluation, checkpoint=checkpoint)
    rankings = {split: evaluate(fitted.scorer, visible, split, evaluation) for split in ("valid", "test")}
    training = FinishedTraining(
        seconds=fitted.seconds,
        parameters=fitted.parameters,
        **_figures(rankings, entry.label, seed, evaluation),
    )
    keep(path, training.model_dump_json())
    checkpoint.unlink(missing_ok=True)
    return training


def _judge_lists(lists: GivenLists, config: ComparisonConfig) -> "FinishedTraining":
    """Somebody else's lists as one run that cost nothing here."""
    rule = config.cm3.evaluation
    rankings = {split: lists.judged(split, rule) for split in ("valid", "test")}
    return FinishedTraining(seconds=0.0, parameters=0, **_figures(rankings, lists.label, 0, rule))


def _figures(rankings: dict[str, Ranking], label: str, seed: int, rule: EvaluationConfig) -> dict[str, Any]:
    """What `FinishedTraining` keeps of the rankings."""
    return {
        "validation": rankings["valid"].values[rule.selection_metric, rule.selection_k],
        "test": rankings["test"].flat(),
        "per_user": rankings["test"].per_user[rule.selection_metric, rule.selection_k].tolist(),
        "rows": [row for split, r in rankings.items() for row in r.table(label, seed, split).to_pylist()],
    }


def with_features(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """The same data set with these features alone."""
    return dataclasses.replace(dataset, features={name: dataset.features[name] for name in names})


def keep(path: Path, text: str) -> None:
    """Write a finished training's record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def _judge_cold(entry: Entry, dataset: Dataset, config: ComparisonConfig, finished: Path) -> list[dict[str, Any]]:
    """Rows of the metrics table: how the recommender, fitted without them, ranks hidden items.

    Empty for one that is trained, which would take as long again, or that cannot tell items without choices apart; or
    where too little is left to fit it on.
    """
    model, hidden = recommender(entry.model), hide(with_features(dataset, entry.features))
    if not model.cold or model.score is None or hidden is None:
        return []
    parameters, evaluation = model.configure(entry.values), config.cm3.evaluation
    key = run_key(entry.model, hidden.dataset, parameters, label=entry.label, cold=evaluation.model_dump(mode="json"))
    path = finished / f"{key}.json"
    if not path.exists():
        try:
            rankings = judged(model.score(hidden.dataset, parameters), hidden, evaluation)
        except TooFewInteractionsError as error:
            logger.warning("%s: hidden items are not judged: %s", entry.label, error)
            return []
        rows = [row for split, ranking in rankings.items() for row in ranking.table(entry.label, 0, split).to_pylist()]
        keep(path, json.dumps(rows))
    kept: list[dict[str, Any]] = json.loads(path.read_bytes())
    return kept


def _values(entry: Entry, seed: int) -> dict[str, Any]:
    """The entry's parameters with the seed, and with shares of its features alone; equal shares if those sum to 0."""
    values = dict(entry.values)
    weights = values.get("modality_weights")
    if weights is not None:
        shares = {name: weights[name] for name in entry.features}
        values["modality_weights"] = shares if any(shares.values()) else None
    return values | {"seed": seed} if recommender(entry.model).build is not None else values


class FinishedTraining(BaseModel):
    """What is kept of one training.

    Attributes:
        validation: the selection metric over everyone, also where fewer users chose the epoch.
        test: test metrics, e.g. "ndcg@20".
        per_user: the selection metric on test of each user with test items.
        rows: rows of the metrics table, both splits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float
    seconds: float
    parameters: int
    test: dict[str, float]
    per_user: list[float]
    rows: list[dict[str, Any]]


def _rows(
    results: dict[str, list[FinishedTraining]], cold: dict[str, list[dict[str, Any]]], config: ComparisonConfig
) -> Iterator[ComparisonRow]:
    key = f"{config.cm3.evaluation.selection_metric}@{config.cm3.evaluation.selection_k}"
    by_user = {label: np.mean([t.per_user for t in trainings], axis=0) for label, trainings in results.items()}
    cm3 = by_user.get("cm3")
    others = {label: values for label, values in by_user.items() if label != "cm3" and cm3 is not None}
    p_values = {label: significance.p_value(values, by_user["cm3"]) for label, values in others.items()}
    corrected = significance.holm(p_values)
    for label, trainings in results.items():
        values = [training.test[key] for training in trainings]
        low, high = significance.interval(by_user[label])
        gain = significance.ahead(by_user["cm3"], others[label]) if label in others else (None, None, None)
        yield ComparisonRow(
            model=label,
            runs=len(trainings),
            validation=float(np.mean([training.validation for training in trainings])),
            mean=float(np.mean(values)),
            spread=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            low=low,
            high=high,
            p_value=p_values.get(label),
            p_holm=corrected.get(label),
            ahead=gain[0],
            ahead_low=gain[1],
            ahead_high=gain[2],
            seconds=float(np.mean([training.seconds for training in trainings])),
            parameters=trainings[0].parameters,
            metrics={
                name: float(np.mean([training.test[name] for training in trainings])) for name in trainings[0].test
            },
            cold=_by_split(cold.get(label, [])),
        )


def _by_split(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Split → metric, e.g. "ndcg@20" → value."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["split"], {})[f"{row['metric']}@{row['k']}"] = row["value"]
    return values
