"""Work on a Dask cluster: the workers compute, this process reads, keeps and publishes.

A stage submits one task per shard: a function of a module's top level and its arguments. Results come back and are kept
here, so that a crash leaves the same behind as on one machine, and a data set has one writer. If a worker dies, its
shards go to another.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.machine import use_threads
from schemas.errors import ClusterError, UserError
from schemas.lineage import CODE_VERSION

logger = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds without any worker after which a run gives up."""
AHEAD = 2
"""Tasks submitted per thread of a worker: one running, one waiting."""
LOOK_EVERY = 0.5
"""Seconds between two checks whether to go on waiting."""
LARGEST = "1GB"
"""Arguments of a task below which Dask does not warn: they are the contents of a shard, and meant to travel."""

ONE_AT_A_TIME = threading.Lock()
"""Held while a worker computes: it may have several threads, but its models and its cores serve one shard."""

K = TypeVar("K")


class Cluster:
    """The workers behind a Dask client. Each has this version of this package, and the models.

    Args:
        client: a `distributed.Client`, most of which has no types.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.address = str(client.scheduler.address)

    def check(self) -> None:
        """Make sure that there are workers, with the same code.

        Raises:
            UserError: there is no worker, or one lacks this package or has another version of it.
        """
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise self._no_worker() from error
        try:
            versions = self._client.run(code_version)
        except Exception as error:  # a worker that cannot import the function raises errors of any type
            raise UserError(
                f"A worker at {self.address} does not know this package: {error}. Install it there."
            ) from error
        for worker, version in versions.items():
            if version != CODE_VERSION:
                raise UserError(
                    f"Worker {worker} has version {version}, this process {CODE_VERSION}; expected the same."
                )
        logger.info("%d workers at %s", len(versions), self.address)

    def slots(self) -> int:
        """Tasks that the present workers run at the same time."""
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
        """Each key with the result of `function(*arguments)`, for `tasks` of (key, arguments).

        Tasks are taken as they are needed, so memory does not grow with their number. A key whose arguments are None
        passes through with None.

        Args:
            function: of a module's top level, so that workers can import it; called again if a worker died.
            at_once: tasks submitted at the same time; 0: enough to keep the workers busy, also those that join later.
            in_order: results in the order of the tasks; else as they are finished.
            idle: called every `LOOK_EVERY` seconds while nothing is finished; may raise.

        Raises:
            UserError: as raised by `function`; or one task ended several workers.
            ClusterError: the scheduler is lost, or had no worker for `PATIENCE` seconds.
        """
        waiting: list[tuple[K, Any]] = []
        finished: queue.SimpleQueue[object] = queue.SimpleQueue()
        try:
            for key, arguments in tasks:
                future = None
                if arguments is not None:
                    future = self._submit(function, *arguments)
                    future.add_done_callback(finished.put)
                waiting.append((key, future))
                while waiting and (
                    _first_ready(waiting[:1]) is not None or len(waiting) >= (at_once or AHEAD * self.slots())
                ):
                    yield self._next(waiting, finished, in_order, idle)
            while waiting:
                yield self._next(waiting, finished, in_order, idle)
        finally:
            if futures := [future for _, future in waiting if future is not None]:
                self._client.cancel(futures)

    def map_shared(self, function: Callable[[Any, Any], Any], shared: Any, parts: Iterable[Any]) -> Iterator[Any]:
        """`function(shared, part)` of each part, in the order of the parts, one at a time on each worker.

        `shared` travels once to each worker, however many parts there are, as long as the worker has some to do. The
        scheduler holds it too: if all workers die, those that come next get it.

        Args:
            function: as in `map`.

        Raises:
            UserError, ClusterError: as in `map`.
        """
        held = self._held(shared)
        for _, result in self.map(on_all_threads, ((None, (function, held, part)) for part in parts)):
            yield result

    def _held(self, value: Any) -> Any:
        """A future of `value`, of which every present worker has a copy."""
        from distributed import CancelledError, wait

        held = self._submit(same, value)
        try:
            while True:
                try:
                    with self._client.as_current():
                        wait([held], timeout=PATIENCE)  # type: ignore[no-untyped-call]
                    break
                except TimeoutError:
                    if not self._threads():
                        raise self._no_worker() from None
            # Dask raises either where a worker leaves meanwhile: each one without it gets it with its first part.
            with suppress(ValueError, AssertionError):
                self._client.replicate([held])
        except (CancelledError, OSError) as error:
            raise self._lost(error) from error
        return held

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A future of `function(*arguments)`."""
        import dask  # an optional extra
        from distributed.client import ClosedClientError

        try:
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGEST}):
                return self._client.submit(function, *arguments, pure=False)
        except ClosedClientError as error:  # the scheduler was away for long, e.g. during the epochs of a training
            raise self._lost(error) from error

    def _next(
        self,
        waiting: list[tuple[K, Any]],
        finished: queue.SimpleQueue[object],
        in_order: bool,
        idle: Callable[[], None],
    ) -> tuple[K, Any]:
        """Take one task out of `waiting`: the first one when it is finished, or without `in_order` any finished one."""
        last_seen = time.monotonic()
        while (index := _first_ready(waiting[:1] if in_order else waiting)) is None:
            try:
                finished.get(timeout=LOOK_EVERY)
            except queue.Empty:
                idle()
                if self._threads():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > PATIENCE:
                    raise self._no_worker() from None
        key, future = waiting.pop(index)
        return key, None if future is None else self._result(future)

    def _result(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker

        try:
            while True:
                try:
                    return future.result(timeout=PATIENCE)
                except TimeoutError:  # if a worker dies with the result, the task is pending again
                    if future.status == "error":  # the function itself raised it
                        raise
                    if not self._threads():
                        raise self._no_worker() from None
        except KilledWorker as error:
            raise UserError(  # trying again would end more of them
                f"One shard ended {error.allowed_failures + 1} workers at {self.address} one after the other. Their "
                "logs say why, mostly memory. What was kept before is taken over by the next run."
            ) from error
        except CancelledError as error:
            raise self._lost(error) from error

    def _threads(self) -> dict[str, int]:
        """Worker → its number of threads, for the workers present now."""
        try:
            threads: dict[str, int] = self._client.nthreads()
        except OSError as error:
            raise self._lost(error) from error
        return threads

    def _lost(self, error: BaseException) -> ClusterError:
        return ClusterError(
            f"The scheduler at {self.address} was lost ({type(error).__name__}). Start it and run again: what was kept "
            "before is taken over."
        )

    def _no_worker(self) -> ClusterError:
        return ClusterError(
            f"No worker at {self.address} for {PATIENCE:.0f} s. Start one, dask worker {self.address}, and run again: "
            "what was kept before is taken over."
        )


def code_version() -> str:
    """The version of this package on the worker that runs this."""
    return CODE_VERSION


def same(value: Any) -> Any:
    """The value itself, so that a worker holds it for the parts that need it."""
    return value


def on_all_threads(function: Callable[[Any, Any], Any], shared: Any, part: Any) -> Any:
    """Runs on a worker: one part, on all of its threads."""
    with ONE_AT_A_TIME:
        use_threads()
        return function(shared, part)


def _first_ready(waiting: list[tuple[K, Any]]) -> int | None:
    """Index of the first task that is finished or has nothing to compute."""
    return next((index for index, (_, future) in enumerate(waiting) if future is None or future.done()), None)
