"""OpenLineage events of a run and its stages, sent where OPENLINEAGE_URL is set: start, complete or fail, with the
versions of the tables that a stage takes and publishes."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from schemas.lineage import CODE_VERSION, TableVersion

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

logger = logging.getLogger(__name__)

URL = "OPENLINEAGE_URL"
NAMESPACE = "cm3"
PRODUCER = f"cm3-features/{CODE_VERSION}"
WAIT_SECONDS = 3.0
"""How long the end of a run waits for the receiver, and how long one request may take."""


@dataclass(frozen=True)
class _Job:
    """A run or a stage that has begun; `parent` is the run of a stage."""

    sender: "_Sender"
    name: str
    id: str
    parent: "_Job | None" = None


_RUN: ContextVar[_Job | None] = ContextVar("open_lineage", default=None)


@contextmanager
def emitted(dataset: str) -> Iterator[None]:
    """Send events of the block, a run, and of its stages; a receiver that does not answer costs it nothing but
    `WAIT_SECONDS` at the end, and a line in the log."""
    client = _client() if os.environ.get(URL) else None
    if client is None:
        yield
        return
    from openlineage.client.uuid import generate_new_uuid

    sender = _Sender(client)
    run = _Job(sender, dataset, str(generate_new_uuid()))
    token = _RUN.set(run)
    try:
        with _between(run, [], []):
            yield
    finally:
        _RUN.reset(token)
        sender.end()


@contextmanager
def stage(name: str, arguments: Mapping[str, Any]) -> Iterator[list[TableVersion]]:
    """Send events of the block, a stage, to whose list it adds what it publishes.

    Args:
        arguments: what the stage is called with; the published tables among them are its inputs.
    """
    outputs: list[TableVersion] = []
    run = _RUN.get()
    if run is None:
        yield outputs
        return
    from openlineage.client.uuid import generate_new_uuid

    job = _Job(run.sender, f"{run.name}.{name}", str(generate_new_uuid()), run)
    with _between(job, list(_published(arguments.values())), outputs):
        yield outputs


@contextmanager
def _between(job: _Job, inputs: list[TableVersion], outputs: list[TableVersion]) -> Iterator[None]:
    job.sender.send(_event("START", job, inputs, []))
    try:
        yield
    except BaseException:
        job.sender.send(_event("FAIL", job, inputs, []))
        raise
    job.sender.send(_event("COMPLETE", job, inputs, outputs))


def _published(values: Iterable[object]) -> Iterator[TableVersion]:
    """The tables among a stage's arguments, which come alone or by name."""
    for value in values:
        if isinstance(value, TableVersion):
            yield value
        elif isinstance(value, Mapping):
            yield from _published(value.values())


def _event(state: str, job: _Job, inputs: list[TableVersion], outputs: list[TableVersion]) -> "RunEvent":
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import parent_run

    facets: dict[str, Any] = {}
    if job.parent is not None:
        above = parent_run.Job(namespace=NAMESPACE, name=job.parent.name)
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=job.parent.id), job=above, producer=PRODUCER
        )
    return RunEvent(
        eventTime=datetime.now(UTC).isoformat(),
        eventType=RunState(state),
        run=Run(runId=job.id, facets=facets),
        job=Job(namespace=NAMESPACE, name=job.name),
        inputs=[InputDataset(**_dataset(version)) for version in inputs],
        outputs=[
            OutputDataset(**_dataset(version), outputFacets={"outputStatistics": _size(version)}) for version in outputs
        ],
        producer=PRODUCER,
    )


def _dataset(version: TableVersion) -> dict[str, Any]:
    """A table's name is its folder in the store, without the version, which is a facet."""
    from openlineage.client.facet_v2 import dataset_version_dataset

    scheme, _, path = version.path.rpartition("://")
    place, _, inside = path.partition("/")
    facet = dataset_version_dataset.DatasetVersionDatasetFacet(version.version, producer=PRODUCER)
    return {
        "namespace": f"{scheme}://{place}" if scheme else "file",
        "name": (inside if scheme else path).rpartition("/")[0],
        "facets": {"version": facet},
    }


def _size(version: TableVersion) -> Any:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    return statistics.OutputStatisticsOutputDatasetFacet(rowCount=version.rows, size=version.size, producer=PRODUCER)


def _client() -> "OpenLineageClient | None":
    """None, and a line in the log, where the package is not installed or a variable has a value that it does not
    take."""
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.transport.http import HttpConfig, HttpTransport
    except ImportError:
        logger.warning("%s is set, but nothing is sent: install the extra `observe`", URL)
        return None
    settings: dict[str, Any] = {
        "url": os.environ[URL],
        "endpoint": os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage"),
        "timeout": WAIT_SECONDS,
        "retry": {"total": 1, "connect": 1, "read": 1},
    }
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        settings["auth"] = {"type": "api_key", "apiKey": key}
    try:
        transport = HttpTransport(HttpConfig.from_dict(settings))
    except ValueError:
        logger.warning("%s is no address, so nothing is sent: expected https://HOST", URL)
        return None
    try:
        # The checkout's address, which the client would add, may hold a login.
        return OpenLineageClient(
            transport=transport,
            config={"facets": {"source_code_location": {"disabled": True}}},  # type: ignore[arg-type]
        )
    except ValueError:  # its message may hold the value
        logger.warning("nothing is sent: OpenLineage does not take the value of one of the variables OPENLINEAGE_*")
        return None


class _Sender:
    """Sends events one after another in a thread of its own, so that no stage waits; none after the first failure."""

    def __init__(self, client: "OpenLineageClient") -> None:
        self._client = client
        self._events: SimpleQueue[RunEvent | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="open-lineage", daemon=True)
        self._thread.start()

    def send(self, event: "RunEvent") -> None:
        self._events.put(event)

    def end(self) -> None:
        self._events.put(None)
        self._thread.join(WAIT_SECONDS)

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._client.emit(event)
            except Exception as error:  # noqa: BLE001  the run goes on without its events
                logger.warning("OpenLineage events of this run are not sent any more: %s", type(error).__name__)
                return
