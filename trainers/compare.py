"""Recommenders side by side: same data, selection and evaluator, several seeds, significance against CM3."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from scipy import stats

from schemas.tables import METRICS
from schemas.training import ComparisonConfig, ComparisonRow
from trainers.data import Dataset, load, modality_shares
from trainers.evaluation import Floats, evaluate
from trainers.fit import run_key
from trainers.output import write_tables
from trainers.recommenders import recommender

logger = logging.getLogger(__name__)

COMPARISON = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("runs", pa.int32(), nullable=False),
        pa.field("validation", pa.float64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("spread", pa.float64(), nullable=False),
        pa.field("p_value", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("parameters", pa.int64(), nullable=False),
    ]
)

PAPER_SCORE = {"score": "dot", "popularity_prior": 0.0, "smoothing": 0.0, "filter_weight": 0.0}


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A line of the comparison to be: which recommender, its parameters, and the features it may see."""

    label: str
    model: str
    values: dict[str, Any]
    features: tuple[str, ...]


def run(
    *,
    interactions: str,
    features: dict[str, str],
    similarity: str | None,
    output: Path,
    finished: Path,
    config: ComparisonConfig,
    on_plan: Callable[[int], None] | None = None,
    on_run: Callable[[str, int, float], None] | None = None,
) -> list[ComparisonRow]:
    """Train each recommender with each seed and compare them on test.

    What was trained is kept in `finished`, named by data, recommender, parameters and seed: a killed comparison goes on
    with what is left, and one with another recommender or more seeds trains only those.

    Args:
        interactions, features, similarity: as for `trainers.cm3.run`.
        output: local folder that gets comparison and metrics `.parquet`.
        finished: local folder of finished trainings, this comparison's and others'.
        on_plan: told the number of trainings before the first.
        on_run: told the model, the seed and the validation metric after each training.
    Returns: one row a recommender, best mean first.
    Raises: UserError: an unknown recommender or parameter, or unusable data.
    """
    dataset = load(interactions=interactions, features=features, similarity=similarity)
    entries = list(_entries(config, tuple(dataset.features)))
    for name, values in config.overrides.items():  # also of those not compared: the name may be misspelt
        recommender(name).configure(values)
    for entry in entries:  # a misspelt parameter of the last one must not cost the training of the first
        recommender(entry.model).configure(entry.values)
        modality_shares(entry.values.get("modality_weights"), dataset.features)
    seeds = {entry.label: config.seeds[: None if recommender(entry.model).build else 1] for entry in entries}
    if on_plan is not None:
        on_plan(sum(map(len, seeds.values())))
    results: dict[str, list[Outcome]] = {}
    for entry in entries:
        for seed in seeds[entry.label]:
            outcome = _train(entry, seed, dataset, config, finished)
            results.setdefault(entry.label, []).append(outcome)
            logger.info("%s, seed %d: validation %.4f", entry.label, seed, outcome.validation)
            if on_run is not None:
                on_run(entry.label, seed, outcome.validation)
    rows = sorted(_rows(results, config), key=lambda row: -row.mean)
    records = [row.model_dump(exclude={"metrics"}) for row in rows]
    table = pa.Table.from_pylist(records, schema=COMPARISON)
    metrics = [row for outcomes in results.values() for outcome in outcomes for row in outcome.rows]
    write_tables({"comparison": table, "metrics": pa.Table.from_pylist(metrics, schema=METRICS)}, output)
    return rows


def _entries(config: ComparisonConfig, features: tuple[str, ...]) -> Iterator[_Entry]:
    for name in config.models:
        base = config.cm3.model_dump() if name == "cm3" else {}
        yield _Entry(name, name, base | config.overrides.get(name, {}), features)
    if not config.ablations:
        return
    cm3 = config.cm3.model_dump() | config.overrides.get("cm3", {})
    yield _Entry("cm3 no calibration", "cm3", cm3 | {"calibration": "none"}, features)
    yield _Entry("cm3 frozen calibration", "cm3", cm3 | {"calibration": "frozen"}, features)
    yield _Entry("cm3 no fusion", "cm3", cm3 | {"fusion": False}, features)
    yield _Entry("cm3 no prior", "cm3", cm3 | {"popularity_prior": 0.0}, features)
    yield _Entry("cm3 no smoothing", "cm3", cm3 | {"smoothing": 0.0}, features)
    yield _Entry("cm3 no filter", "cm3", cm3 | {"filter_weight": 0.0}, features)
    yield _Entry("cm3 paper's score", "cm3", cm3 | PAPER_SCORE, features)
    yield _Entry("cm3 as published", "cm3", cm3 | PAPER_SCORE | {"published": True}, features)
    for name in features if len(features) > 1 else ():
        yield _Entry(f"cm3 {name} alone", "cm3", cm3, (name,))
    for name in features if len(features) > 2 else ():
        yield _Entry(f"cm3 without {name}", "cm3", cm3, tuple(other for other in features if other != name))


def _train(entry: _Entry, seed: int, dataset: Dataset, config: ComparisonConfig, finished: Path) -> "Outcome":
    """Fit on the entry's features alone, and rank validation and test; or read what that gave before."""
    seen = dataclasses.replace(dataset, features={name: dataset.features[name] for name in entry.features})
    found = recommender(entry.model)
    values = dict(entry.values)
    weights = values.get("modality_weights")
    if weights is not None:
        shares = {name: weights[name] for name in entry.features}
        values["modality_weights"] = shares if any(shares.values()) else None
    if found.build is not None:
        values |= {"seed": seed}
    settings, evaluation = found.configure(values), config.cm3.evaluation
    key = run_key(entry.model, seen, settings, label=entry.label, evaluation=evaluation.model_dump(mode="json"))
    path = finished / f"{key}.json"
    if path.exists():
        return Outcome.model_validate_json(path.read_bytes())
    checkpoint = path.with_suffix(".pt")
    fit = found.fit(seen, settings, evaluation, checkpoint=checkpoint)
    rankings = {split: evaluate(fit.scorer, seen, split, evaluation) for split in ("valid", "test")}
    outcome = Outcome(
        validation=fit.validation, seconds=fit.seconds, parameters=fit.parameters, test=rankings["test"].flat(),
        per_user=rankings["test"].per_user[evaluation.selection_metric, evaluation.selection_k].tolist(),
        rows=[row for split, r in rankings.items() for row in r.table(entry.label, seed, split).to_pylist()],
    )  # fmt: skip
    finished.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(outcome.model_dump_json())
    draft.replace(path)
    checkpoint.unlink(missing_ok=True)
    return outcome


class Outcome(BaseModel):
    """What is kept of one training.

    Attributes:
        test: test metrics, e.g. "ndcg@20".
        per_user: the selection metric on test of each user that has test items.
        rows: of the metrics table, both splits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float
    seconds: float
    parameters: int
    test: dict[str, float]
    per_user: list[float]
    rows: list[dict[str, Any]]


def _rows(results: dict[str, list[Outcome]], config: ComparisonConfig) -> Iterator[ComparisonRow]:
    key = f"{config.cm3.evaluation.selection_metric}@{config.cm3.evaluation.selection_k}"
    by_user = {
        label: np.mean([outcome.per_user for outcome in outcomes], axis=0) for label, outcomes in results.items()
    }
    for label, outcomes in results.items():
        values = [outcome.test[key] for outcome in outcomes]
        yield ComparisonRow(
            model=label,
            runs=len(outcomes),
            validation=float(np.mean([outcome.validation for outcome in outcomes])),
            mean=float(np.mean(values)),
            spread=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            p_value=_p_value(by_user[label], by_user["cm3"]) if label != "cm3" and "cm3" in by_user else None,
            seconds=float(np.mean([outcome.seconds for outcome in outcomes])),
            parameters=outcomes[0].parameters,
            metrics={name: float(np.mean([outcome.test[name] for outcome in outcomes])) for name in outcomes[0].test},
        )


def _p_value(ours: Floats, theirs: Floats) -> float | None:
    """Two-sided paired t-test over users, each user's value the mean over the runs; 1 where no user differs, None for
    a single one."""
    if np.array_equal(ours, theirs):
        return 1.0
    if len(ours) < 2:
        return None
    value = float(stats.ttest_rel(ours, theirs).pvalue)
    return value if np.isfinite(value) else None
