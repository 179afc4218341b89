"""Shards on other machines: the workers of a Dask cluster compute, this process reads, keeps and publishes.

A stage hands over one shard a task, as a function of a module's top level and its arguments. What a worker computed
comes back and is kept here, so that a crash leaves the same behind as on one machine, and a data set has one writer.
The shard of a worker that dies is given to another.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from schemas.errors import ClusterError, UserError
from schemas.lineage import CODE_VERSION

logger = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds without any worker after which a run gives up; finished shards are kept."""
AHEAD = 2
"""Shards handed over for each thread of a worker: one at work, one waiting."""
LOOK_EVERY = 0.5
"""Seconds between two looks at whether to go on waiting."""
LARGEST = "1GB"
"""A shard's arguments are its contents, meant to travel: Dask need not warn below this size."""

K = TypeVar("K")


class Cluster:
    """The workers behind a Dask client. Each has this package, at this version, and the models.

    Args:
        client: a `distributed.Client`, most of which has no types.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.address = str(client.scheduler.address)

    def check(self) -> None:
        """Make sure that somebody works there, with the same code.

        Raises:
            UserError: there is no worker, or one lacks this package or has another version of it.
        """
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise self._nobody() from error
        try:
            found = self._client.run(code_version)
        except Exception as error:  # whatever becomes of a function that a worker cannot import
            raise UserError(
                f"A worker at {self.address} does not know this package: {error}. Install it there."
            ) from error
        for worker, version in found.items():
            if version != CODE_VERSION:
                raise UserError(
                    f"Worker {worker} has version {version}, this process {CODE_VERSION}; expected the same."
                )
        logger.info("%d workers at %s", len(found), self.address)

    def slots(self) -> int:
        """Shards that the present workers compute at once."""
        return max(1, sum(self._threads().values()))

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[K, tuple[Any, ...] | None]],
        *,
        at_once: int = 0,
        in_order: bool = True,
        idle: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[K, Any]]:
        """What `function(*arguments)` gave for each (key, arguments).

        Tasks are taken as they are needed, so memory does not grow with their number. A key whose arguments are None
        passes through with None.

        Args:
            function: of a module's top level, so that workers find it; called again where a worker died.
            at_once: shards handed over at a time; 0: enough to keep the workers busy, also those that join later.
            in_order: in the order of the tasks; else as they are finished.
            idle: called now and then while nothing is finished; may raise.

        Raises:
            UserError: as raised by `function`; or one shard ended several workers.
            ClusterError: the scheduler is lost, or had no worker for `PATIENCE` seconds.
        """
        import dask

        waiting: list[tuple[K, Any]] = []
        news: queue.SimpleQueue[object] = queue.SimpleQueue()
        try:
            for key, arguments in tasks:
                future = None
                if arguments is not None:
                    with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGEST}):
                        future = self._client.submit(function, *arguments, pure=False)
                    future.add_done_callback(news.put)
                waiting.append((key, future))
                while waiting and (
                    _ready(waiting[:1]) is not None or len(waiting) >= (at_once or AHEAD * self.slots())
                ):
                    yield self._next(waiting, news, in_order, idle)
            while waiting:
                yield self._next(waiting, news, in_order, idle)
        finally:
            if given := [future for _, future in waiting if future is not None]:
                self._client.cancel(given)

    def _next(
        self,
        waiting: list[tuple[K, Any]],
        news: queue.SimpleQueue[object],
        in_order: bool,
        idle: Callable[[], None],
    ) -> tuple[K, Any]:
        """Take the first finished one out of `waiting`, or the first one as soon as it is finished."""
        last_seen = time.monotonic()
        while (place := _ready(waiting[:1] if in_order else waiting)) is None:
            try:
                news.get(timeout=LOOK_EVERY)
            except queue.Empty:
                idle()
                if self._threads():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > PATIENCE:
                    raise self._nobody() from None
        key, future = waiting.pop(place)
        return key, None if future is None else self._result(future)

    def _result(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker

        try:
            while True:
                try:
                    return future.result(timeout=PATIENCE)
                except TimeoutError:  # a worker can die with the result: then it is pending again
                    if future.status == "error":  # the function's own
                        raise
                    if not self._threads():
                        raise self._nobody() from None
        except KilledWorker as error:
            raise UserError(  # trying again would end more of them
                f"One shard ended {error.allowed_failures + 1} workers at {self.address} one after the other. Their "
                "logs say why, mostly memory. Finished shards are kept."
            ) from error
        except CancelledError as error:
            raise self._lost(error) from error

    def _threads(self) -> dict[str, int]:
        """Threads of each worker that is there now."""
        try:
            threads: dict[str, int] = self._client.nthreads()
        except OSError as error:
            raise self._lost(error) from error
        return threads

    def _lost(self, error: BaseException) -> ClusterError:
        return ClusterError(
            f"The scheduler at {self.address} was lost ({type(error).__name__}). Finished shards are kept: start it "
            "and run again."
        )

    def _nobody(self) -> ClusterError:
        return ClusterError(
            f"No worker at {self.address} for {PATIENCE:.0f} s. Start one, dask worker {self.address}, and run again: "
            "finished shards are kept."
        )


def code_version() -> str:
    """Asked of every worker."""
    return CODE_VERSION


def _ready(waiting: list[tuple[K, Any]]) -> int | None:
    """Place of the first that is finished."""
    return next((place for place, (_, future) in enumerate(waiting) if future is None or future.done()), None)
