"""Training curves, the metrics table against baselines, and cold items."""

import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from markupsafe import Markup

from pipeline.report import charts
from pipeline.report.selection import Tables
from pipeline.report.wording import figure, metric_order, metric_title, model_title, shown
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig

_GROUP = re.compile(r"(recall|ndcg)_train_(\d+)(_\d*)?")
HIDDEN = ("cold", "cold_only")
"""Splits of the metrics table: hidden items among all items, and among each other."""
MAX_CURVES = 6
"""Training runs whose curves are drawn: each adds about 40 kB."""
HEADLINE = (("ndcg", 10), ("ndcg", 20), ("recall", 10), ("recall", 20), ("hr", 20), ("coverage", 20))
"""The columns of the metrics table; 20 stands for `config.cutoff`."""


@dataclass(frozen=True)
class Score:
    """One metric over seeds. `deviation` is the sample standard deviation, None with one seed."""

    mean: float
    deviation: float | None
    seeds: int
    users: int


Scores = dict[tuple[str, str, int | None], Score]
"""(model, metric, k) → score."""


def scores(store: Store, version: TableVersion | None, split: str) -> Scores:
    """The metrics table of one split, averaged over seeds."""
    if version is None:
        return {}
    by_key: dict[tuple[str, str, int | None], list[tuple[float, int]]] = defaultdict(list)
    for row in store.read(version).to_pylist():
        if row["split"] == split:
            by_key[row["model"], row["metric"], row["k"]].append((row["value"], row["users"]))
    return {
        key: Score(
            mean=mean(value for value, _ in values),
            deviation=stdev(value for value, _ in values) if len(values) > 1 else None,
            seeds=len(values),
            users=max(users for _, users in values),
        )
        for key, values in by_key.items()
    }


def metrics(test: Scores, config: ReportConfig) -> dict[str, Any] | None:
    """A table of models by headline metrics, the best value of each, and a chart."""
    plain = {key: score for key, score in test.items() if not _GROUP.fullmatch(key[1])}
    if not plain:
        return None
    available = {(metric, k) for _, metric, k in plain}
    headline = dict.fromkeys((metric, config.cutoff if k == 20 else k) for metric, k in HEADLINE)
    columns = [column for column in headline if column in available] or sorted(available, key=str)[:6]
    models = _ranked({model for model, *_ in plain}, plain, config)
    best = {c: max(plain[m, *c].mean for m in models if (m, *c) in plain) for c in columns}
    every = sorted(available, key=lambda c: (metric_order(c[0]), c[0], c[1] or 0))
    return {
        "columns": [{"key": c, "label": metric_title(*c)} for c in columns],
        "models": models,
        "cell": {(m, c): plain.get((m, *c)) for m in models for c in {*columns, *every}},
        "best": best,
        "every": [{"key": c, "label": metric_title(*c)} for c in every],
        "seeds": max(score.seeds for score in plain.values()),
        "users": max(score.users for score in plain.values()),
        "chart": _metric_chart(plain, models, [c for c in columns if c[0] in ("ndcg", "recall")]),
    }


def cold(test: Scores, config: ReportConfig) -> dict[str, Any] | None:
    """Recall and NDCG by how often items were chosen in training; group 0 holds the cold ones."""
    groups: dict[tuple[int, str], str] = {}
    for _, metric, k in test:
        if (match := _GROUP.fullmatch(metric)) and k == config.cutoff:
            groups[int(match[2]), metric.split("_train_")[1]] = _interval(int(match[2]), match[3])
    if not groups:
        return None
    keys = sorted(groups)
    models = _ranked({model for model, metric, _ in test if _GROUP.fullmatch(metric)}, test, config)
    rows: list[dict[str, Any]] = []
    for key in keys:
        cells = {
            (m, kind): test.get((m, f"{kind}_train_{key[1]}", config.cutoff))
            for m in models
            for kind in ("recall", "ndcg")
        }
        users = max((score.users for score in cells.values() if score), default=0)
        rows.append({"label": groups[key], "users": users, "cells": cells})
    drawn = [row for row in rows if row["users"]]
    series = {
        model_title(m): [
            (s.mean, s.deviation or 0.0) if (s := row["cells"][m, "recall"]) else (0.0, 0.0) for row in drawn
        ]
        for m in models[: charts.SERIES]
    }
    chart = charts.bars([row["label"] for row in drawn], series) if drawn else Markup("")
    return {"models": models, "rows": rows, "k": config.cutoff, "chart": chart}


def hidden(store: Store, version: TableVersion | None, config: ReportConfig) -> dict[str, Any] | None:
    """Recall and NDCG of items hidden from training, ranked among all items and among each other."""
    rankings = {split: scores(store, version, split) for split in HIDDEN}
    models = {model for model, metric, k in rankings["cold"] if (metric, k) == ("recall", config.cutoff)}
    if not models:
        return None
    columns = [(split, metric) for split in HIDDEN for metric in ("recall", "ndcg")]
    cells = {(m, *column): rankings[column[0]].get((m, column[1], config.cutoff)) for m in models for column in columns}
    best = {c: max((score.mean for m in models if (score := cells[m, *c])), default=0.0) for c in columns}
    ordered = sorted(models, key=lambda m: (-rankings["cold"][m, "recall", config.cutoff].mean, m))
    users = max(score.users for score in rankings["cold"].values())
    return {"models": ordered, "columns": columns, "cells": cells, "best": best, "users": users, "k": config.cutoff}


def training(store: Store, tables: Tables) -> tuple[list[dict[str, Any]], int]:
    """Charts of the loss terms and of the validation metric by model and seed; and how many runs were left out."""
    if "epochs" not in tables:
        return [], 0
    runs: dict[tuple[str, int], dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in store.read(tables["epochs"]).to_pylist():
        runs[row["model"], row["seed"]][row["metric"]].append((row["epoch"], row["value"]))
    drawn = sorted(runs.items())[:MAX_CURVES]
    return [_run(model, seed, series) for (model, seed), series in drawn], len(runs) - len(drawn)


def changes(test: Scores, before: Scores, config: ReportConfig) -> list[dict[str, Any]]:
    """The model's headline metrics now and in the previous run, those that both have."""
    keys = [(config.model, metric, config.cutoff) for metric in ("ndcg", "recall")]
    return [
        {"label": metric_title(metric, k), "old": before[model, metric, k].mean, "new": test[model, metric, k].mean}
        for model, metric, k in keys
        if (model, metric, k) in test and (model, metric, k) in before
    ]


def gain(ours: Score | None, theirs: Score | None) -> float | None:
    """The ratio of the two means; None where there is nothing to compare with."""
    return ours.mean / theirs.mean if ours and theirs and theirs.mean > 0 else None


def _ranked(models: set[str], scores: Scores, config: ReportConfig) -> list[str]:
    """The models, the best NDCG first."""

    def strength(model: str) -> tuple[float, str]:
        score = scores.get((model, "ndcg", config.cutoff))
        return (-score.mean if score else 0.0, model)

    return sorted(models, key=strength)


def _metric_chart(scores: Scores, models: list[str], columns: list[tuple[str, int | None]]) -> Markup:
    series = {
        model_title(m): [(s.mean, s.deviation or 0.0) if (s := scores.get((m, *c))) else (0.0, 0.0) for c in columns]
        for m in models[: charts.SERIES]
    }
    return charts.bars([metric_title(*c) for c in columns], series) if columns else Markup("")


def _interval(low: int, rest: str | None) -> str:
    if rest is None:
        return "none (cold)" if low == 0 else f"{low:,}"
    return f"{low:,} or more" if rest == "_" else f"{low:,}–{int(rest[1:]):,}"


def _run(model: str, seed: int, series: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    curves = {name.replace("_", " "): sorted(points) for name, points in series.items()}
    validation = {_validation(name): points for name, points in curves.items() if name.startswith("valid ")}
    terms = {name: points for name, points in curves.items() if not name.startswith("valid ")}
    best, value = None, None
    if validation:
        best, value = max(next(iter(validation.values())), key=lambda point: point[1])
    return {
        "model": shown(model, 40),
        "seed": seed,
        "epochs": max(epoch for points in curves.values() for epoch, _ in points),
        "best": best,
        "best_value": value,
        "validation": next(iter(validation), ""),
        "loss_chart": charts.curves(terms) if terms else None,
        "validation_chart": charts.curves(validation, best=best) if validation else None,
        "rows": _thinned(terms | validation),
    }


def _validation(name: str) -> str:
    metric, _, k = name.removeprefix("valid ").partition("@")
    return f"validation {metric_title(metric, int(k) if k.isdigit() else None)}"


def _thinned(curves: dict[str, list[tuple[int, float]]], rows: int = 12) -> dict[str, Any]:
    """About `rows` epochs of every curve, for readers who prefer numbers."""
    by_epoch: dict[int, dict[str, float]] = defaultdict(dict)
    for name, points in curves.items():
        for epoch, value in points:
            by_epoch[epoch][name] = value
    epochs = sorted(by_epoch)
    step = max(1, -(-len(epochs) // rows))
    kept = sorted({*epochs[::step], epochs[-1]})
    return {"names": list(curves), "rows": [(e, [figure(by_epoch[e].get(n)) for n in curves]) for e in kept]}
