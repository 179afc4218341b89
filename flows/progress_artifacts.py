"""The progress of each long loop as an artifact on Prefect's page of the run."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pipeline.progress import Steps, watched

logger = logging.getLogger(__name__)


@contextmanager
def shown() -> Iterator[None]:
    """Each loop in the block, which is within a task or flow run, has its own artifact.

    A thread of its own writes it, so the work never waits for the server; while one figure is being sent, later ones
    are dropped.
    """
    with ThreadPoolExecutor(1, "progress") as executor, watched(_Artifacts(executor)):
        yield


class _Artifacts:
    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._sending: Future[None] | None = None
        self._ids: dict[str, UUID] = {}

    def __call__(self, steps: Steps) -> None:
        if steps.ended or self._sending is None or self._sending.done():
            percent = 100.0 if steps.ended else min(100.0, 100 * steps.count / steps.total)
            self._sending = self._executor.submit(
                copy_context().run, self._send, steps.description, percent, str(steps)
            )

    def _send(self, name: str, percent: float, text: str) -> None:
        try:
            if name in self._ids:
                update_progress_artifact(self._ids[name], percent, text)
            else:
                self._ids[name] = cast(UUID, create_progress_artifact(percent, description=text))
        except Exception as error:  # noqa: BLE001  the work goes on without a figure on a page
            logger.debug("progress of %s is not shown: %s", name, error)
