"""The last runs of a data set as charts."""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from pipeline.report import charts
from schemas.history import Entry

Points = Sequence[tuple[int, float]]

FIGURES: Mapping[str, Callable[[Entry], Mapping[str, float | None]]] = {
    "Items and interactions": lambda run: {"items": run.items, "interactions": run.interactions},
    "Coverage": lambda run: run.coverage,
    "Failed pictures": lambda run: {"failed pictures": run.pictures_failed},
    "Test NDCG@20": lambda run: {"NDCG@20": run.ndcg},
    "Cold items": lambda run: {"recall@20": run.cold_recall},
    "Neighbours as in the run before": lambda run: {"overlap": run.neighbor_overlap},
    "Seconds": lambda run: {"seconds": run.seconds},
    "Cost": lambda run: {"cost": run.cost or None},
}
"""Title of a chart → its series in one run; all figures have a chart of their own, as their units differ."""


def drawn(runs: Sequence[Entry]) -> list[tuple[str, Markup]]:
    """Title and chart of every figure that any of the runs has, over the runs numbered from 1."""
    return [
        (title, charts.curves(series, over="run"))
        for title, figures in FIGURES.items()
        if (series := _series([figures(run) for run in runs]))
    ]


def _series(runs: Sequence[Mapping[str, float | None]]) -> dict[str, Points]:
    names = dict.fromkeys(name for run in runs for name in run)
    points = {
        name: [(number, value) for number, run in enumerate(runs, 1) if (value := run.get(name)) is not None]
        for name in names
    }
    return {name: values for name, values in points.items() if values}
