"""What a stage counted, for the record of its run: work done and saved, and failures by reason."""

from dataclasses import fields
from typing import Any, cast

import polars as pl

from pipeline.contents import Extraction
from pipeline.images.stage import Fetched
from pipeline.ingest.stage import Ingested
from pipeline.store import Store
from schemas.lineage import TableVersion

Counts = dict[str, float]


def of_stage(store: Store, result: object) -> dict[str, Counts]:
    """Table → its counts, for a stage's result; empty where there is nothing to count."""
    if isinstance(result, Extraction):
        return {result.version.table: flat(result.counts)}
    if isinstance(result, Fetched):
        by_status = {name: grouped(store, version, "status") for name, version in result.tables.items()}
        by_status["images"] = {"downloaded": result.downloaded} | by_status["images"]
        return by_status
    if isinstance(result, Ingested):
        return {"quality": grouped(store, result.quality, "rule", "count")}
    return {}


def grouped(store: Store, version: TableVersion, by: str, counted: str = "") -> Counts:
    """Rows, or the sum of a column, by the values of another, largest first."""
    frame = cast(pl.DataFrame, pl.from_arrow(store.read(version, [by, *([counted] if counted else [])])))
    sums = frame.group_by(by).agg((pl.col(counted).sum() if counted else pl.len()).alias("n"))
    return dict(sums.sort("n", by, descending=[True, False]).iter_rows())


def flat(counts: Any) -> Counts:
    """A stage's counts by name; what they hold by reason as `name: reason`."""
    found: Counts = {}
    for each in fields(counts):
        value = getattr(counts, each.name)
        found |= {f"{each.name}: {k}": v for k, v in value.items()} if isinstance(value, dict) else {each.name: value}
    return found


def rate(counts: Counts, seconds: float) -> float | None:
    """What went through a model or came from the network, a second; None where nothing did."""
    done = counts.get("encoded") or counts.get("downloaded")
    return done / max(seconds, 1e-9) if done else None
