"""How a stage is called, and what the record of the run says of it."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import ParamSpec, Protocol, TypeVar

from pipeline import log_fields
from pipeline.published import Published
from schemas.lineage import TableVersion, now
from schemas.run import StageRecord

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Tables = dict[str, TableVersion]
"""Published tables by name."""


class Call(Protocol):
    """How a stage is run: `call(name, function, **arguments)` returns what the function returns."""

    def __call__(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


def plain(name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a stage in this process, without a server."""
    logger.info("%s …", name)
    return function(*args, **kwargs)


class Recorder:
    """Calls stages, and keeps what each published and counted for the run's summary.

    Attributes:
        stages: one entry per table, in the order of publication.
        encoded: feature, or `captions` → contents that a model encoded.
        started: UTC, ISO 8601.
        clock: the same moment as `time.monotonic` gives it, seconds.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.stages: list[StageRecord] = []
        self.encoded: dict[str, int] = {}
        self.started = now()
        self.clock = time.monotonic()

    def __call__(self, name: str, function: Callable[P, Published], /, *args: P.args, **kwargs: P.kwargs) -> Tables:
        """Run a stage and return its tables; in the record its counts stand with the first of them."""
        begun = time.monotonic()
        with log_fields.about(stage=name):
            published = self.call(name, function, *args, **kwargs)
        seconds = time.monotonic() - begun
        counts = dict(published.counts)
        for table, version in published.tables.items():
            self.stages.append(
                StageRecord(
                    stage=name,
                    table=table,
                    version=version.version,
                    path=version.path,
                    rows=version.rows,
                    reused=version.reused,
                    seconds=seconds,
                    counts=counts,
                    rate=_rate(counts, seconds),
                )
            )
            counts = {}
        if "reused" in published.counts:  # of the stages that encode; an unchanged table counts nothing else
            self.encoded[name.removeprefix("features/")] = int(published.counts.get("encoded", 0))
        return dict(published.tables)


def _rate(counts: Mapping[str, float], seconds: float) -> float | None:
    """Contents encoded, or pictures downloaded, per second; None where there were none."""
    amount = counts.get("encoded") or counts.get("downloaded")
    return amount / max(seconds, 1e-9) if amount else None
