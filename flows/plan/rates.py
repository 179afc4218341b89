"""How long work takes and what it costs, by earlier runs in the store, else by the figures in the docs."""

from itertools import islice
from typing import Any

from pipeline.run_records import newest_first
from pipeline.store import Store

DOCS = "docs/benchmarks.md: 2 cores, other models"
PER_SECOND = {"images": 970.0, "features/sentence": 390.0, "features/": 98.0, "similarity": 4900.0}
"""Items per second by stage, or by the beginning of its name: 1,600 items by the quick figures of the benchmarks."""

RECORDS = 60
"""Most records that are read, the newest: a store of years has thousands."""


class Rates:
    """Figures of the runs whose records the store has, those of the same data set first, the newest first."""

    def __init__(self, store: Store, dataset: str) -> None:
        records = list(islice(newest_first(store), RECORDS))
        records.sort(key=lambda record: (record.dataset == dataset, record.started), reverse=True)
        self._stages = [
            (f"run of {record.dataset}, {record.started[:16]}", stage) for record in records for stage in record.stages
        ]

    def per_second(self, stage: str) -> tuple[float | None, str]:
        """Contents encoded, pictures downloaded or items compared per second, and where the figure comes from."""
        for run, record in self._stages:
            rate = record.rows / record.seconds if stage == "similarity" and record.seconds else record.rate
            if record.stage == stage and rate and not record.reused:
                return rate, run
        for name, rate in PER_SECOND.items():
            if stage.startswith(name):
                return rate, DOCS
        return None, ""

    def seconds_per_epoch(self) -> tuple[float | None, str]:
        """Seconds of a training by its epochs, everything beside them included."""
        for run, record in self._stages:
            if record.stage == "train" and record.counts.get("epochs"):
                return record.seconds / record.counts["epochs"], run
        return None, ""

    def cost_per_content(self, stage: str) -> float | None:
        """Of the last run in which a model that may have a price, or an endpoint, read something in the stage."""
        for _, record in self._stages:
            if record.stage == stage and "cost" in record.counts and record.counts.get("encoded"):
                return record.counts["cost"] / record.counts["encoded"]
        return None


def timed(count: int, rate: float | None, basis: str) -> dict[str, Any]:
    """Fields of a step of so much work: none if there is no work, or no rate."""
    return {"seconds": count / rate, "basis": basis} if count and rate else {"seconds": 0.0 if not count else None}
