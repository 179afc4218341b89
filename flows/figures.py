"""The figures of a run that its record keeps, read from the tables that it published."""

from collections.abc import Mapping

import pyarrow as pa

from pipeline.registry import promotion
from pipeline.run_records import newest_first
from pipeline.similarity.overlap import overlap
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.run import Figures

CUTOFFS = (10, 20)
"""Of the test figures that a record keeps."""


def measured(store: Store, tables: Mapping[str, TableVersion]) -> Figures:
    """What a run's tables say of their quality; of the graph, compared with that of the last recorded run."""
    metrics = store.read(tables["metrics"]) if "metrics" in tables else None
    test = {f"ndcg@{k}": value(metrics, "cm3", "test", f"ndcg@{k}") for k in CUTOFFS}
    graph = graph_before(store, tables["similarity"].dataset)
    return Figures(
        coverage=promotion.coverage(store, tables),
        test={name: figure for name, figure in test.items() if figure is not None},
        cold_recall=value(metrics, "item-weights", "cold", "recall@20"),
        neighbor_overlap=overlap(store, graph, tables["similarity"]) if graph else None,
    )


def value(metrics: pa.Table | None, model: str, split: str, figure: str) -> float | None:
    """A figure of the metrics table, such as ndcg@20; None where it is not there."""
    if metrics is None:
        return None
    metric, _, k = figure.partition("@")
    try:
        return promotion.value(metrics, model, split, metric, int(k))
    except ValueError:
        return None


def graph_before(store: Store, dataset: str) -> TableVersion | None:
    """The similarity graph of the last run that left a record; None where there is none, or it was deleted."""
    record = next(newest_first(store, dataset), None)
    for stage in record.stages if record else ():
        if stage.table == "similarity":
            try:
                return store.get(dataset, stage.table, stage.version)
            except UserError:
                return None
    return None
