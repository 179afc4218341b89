"""How a stage is called, and what is noted of it for the record of the run."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flows import counts
from pipeline import log_fields
from pipeline.contents import Extraction
from pipeline.images import stage as images
from pipeline.ingest import stage as ingest
from pipeline.store import Store
from schemas.lineage import TableVersion, now
from schemas.run import StageRecord

logger = logging.getLogger(__name__)


class Call(Protocol):
    """How a stage is run: `call(name, function, **arguments)` returns what the function returns."""

    def __call__(self, name: str, function: Callable[..., Any], /, **arguments: Any) -> Any: ...


def plain(name: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
    """Run a stage in this process, without a server."""
    logger.info("%s …", name)
    return function(**arguments)


class Recorder:
    """Calls stages and notes what each did, for the run's summary."""

    def __init__(self, store: Store, call: Call) -> None:
        self.store = store
        self.call = call
        self.stages: list[StageRecord] = []
        self.encoded: dict[str, int] = {}
        self.started = now()
        self.clock = time.monotonic()

    def __call__(self, name: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
        begun = time.monotonic()
        with log_fields.about(stage=name):
            result = self.call(name, function, **arguments)
        seconds = time.monotonic() - begun
        counted = counts.of_stage(self.store, result)
        for version in versions_in(result):
            mine = counted.get(version.table, {})
            shown = version.model_dump(include={"table", "version", "path", "rows", "reused"})
            rate = counts.rate(mine, seconds)
            self.stages.append(StageRecord(stage=name, seconds=seconds, counts=mine, rate=rate, **shown))
        if isinstance(result, Extraction):
            self.encoded[name.removeprefix("features/")] = result.counts.encoded
        return result


def versions_in(result: object) -> list[TableVersion]:
    """The table versions a stage returned, in whichever of its forms."""
    if isinstance(result, TableVersion):
        return [result]
    if isinstance(result, Extraction):
        return [result.version]
    if isinstance(result, images.Fetched):
        return list(result.tables.values())
    if isinstance(result, ingest.Ingested):
        return [result.items, result.interactions, result.quality]
    return list(result.values()) if isinstance(result, Mapping) else []
