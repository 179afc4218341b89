"""Tables that replace those of a real run where a report's test needs special ones: texts that mean harm, a graph that
says it is approximate, and metrics of three models over three seeds."""

import json
import random
from collections.abc import Mapping

import pyarrow as pa

from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import TableVersion
from tests.support.published import publish

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "{{ 7 * 7 }} {% raw %} ${7*7} 'quoted' \"twice\" & <b>bold</b>",
    "Left \u202eright\u202c and \u2066isolated\u2069 <!--",
    "\u05d7\u05d5\u05dc\u05e6\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4",
    "\ud55c\uae00 \U0001f600 tab\there line\nbreak nul\x00",
)
MEASURED = {"exact": False, "recall": {"clip": 0.981, "fused": 0.975}, "clusters": 1000, "compared": 9}
"""What an approximate graph says of itself."""
STRENGTH = {"cm3": 0.21, "lightgcn": 0.16, "popularity": 0.055}
METRICS = ("ndcg", "recall", "hr", "precision", "mrr", "map", "coverage")
GROUPS = ("train_0", "train_1_4", "train_5_19", "train_20_")


def made_hostile(run: Store, tables: Mapping[str, TableVersion], store: Store) -> dict[str, TableVersion]:
    """The tables of a run, some of them replaced by special ones that are published in `store`."""
    replaced = {
        "items": _items(run.read(tables["items"])),
        "captions": _captions(run.read(tables["captions"])),
        "quality": _quality(run.read(tables["quality"])),
        "metrics": _metrics(),
    }
    versions = {name: publish(store, name, table, dataset="demo") for name, table in replaced.items()}
    graph = tables["similarity"]
    measured = {"cm3.measured": json.dumps(MEASURED)}
    approximate = graph.model_copy(update={"lineage": dict(graph.lineage) | measured})
    return dict(tables) | versions | {"similarity": approximate}


def _items(table: pa.Table) -> pa.Table:
    """The first titles, brands, descriptions and categories mean harm."""
    rows = table.to_pylist()
    for row, text in zip(rows, HOSTILE, strict=False):
        row.update(title=text, brand=text, description=text, categories=[text, *row["categories"]])
    return pa.Table.from_pylist(rows, schema=contract.ITEMS)


def _captions(table: pa.Table) -> pa.Table:
    """So do the captions of the first six items with a picture."""
    rows = table.to_pylist()
    for number, row in enumerate([row for row in rows if row["caption"]][:6]):
        row["caption"] = HOSTILE[number % 4]
    return pa.Table.from_pylist(rows, schema=contract.CAPTIONS)


def _quality(table: pa.Table) -> pa.Table:
    """So do examples of what was dropped; one count is large."""
    rows = table.to_pylist()
    rows[0]["examples"] = [HOSTILE[0], HOSTILE[3]]
    rows[1]["count"] = 1234
    return pa.Table.from_pylist(rows, schema=contract.QUALITY)


def _metrics() -> pa.Table:
    """Three models over three seeds; few users for the items that nobody chose in training; hidden items."""
    noise = random.Random(1)
    names = [*METRICS, *(f"{metric}_{group}" for metric in ("recall", "ndcg") for group in GROUPS)]
    rows = [
        (model, seed, split, metric, k, _value(level, metric, k, noise), 3 if metric.endswith("train_0") else 590)
        for model, level in STRENGTH.items()
        for seed in (0, 1, 2)
        for split in ("valid", "test")
        for metric in names
        for k in (5, 10, 20, 50)
    ]
    rows += [
        (model, 0, split, metric, 20, level, 321)
        for model, level in {"random": 0.0111, "content-knn": 0.2222, "item-weights": 0.1111}.items()
        for split in ("cold", "cold_only")
        for metric in ("recall", "ndcg")
    ]
    records = [dict(zip(contract.METRICS.names, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(records, schema=contract.METRICS)


def _value(level: float, metric: str, k: int, noise: random.Random) -> float:
    return level * (k / 20) ** 0.4 * noise.uniform(0.9, 1.1) * (2 if metric == "recall" else 1)
