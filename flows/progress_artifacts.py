"""How far each long loop is, as progress artifacts on Prefect's page of the run."""

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
    """Loops in the block, which is within a task or flow run, each have an artifact of their own.

    It is written by a thread beside the work, which never waits for the server, and not at all while an earlier figure
    is still on its way.
    """
    with ThreadPoolExecutor(1, "progress") as beside, watched(_Artifacts(beside)):
        yield


class _Artifacts:
    def __init__(self, beside: ThreadPoolExecutor) -> None:
        self._beside = beside
        self._on_its_way: Future[None] | None = None
        self._known: dict[str, UUID] = {}

    def __call__(self, steps: Steps) -> None:
        if steps.ended or self._on_its_way is None or self._on_its_way.done():
            percent = 100.0 if steps.ended else min(100.0, 100 * steps.count / steps.total)
            self._on_its_way = self._beside.submit(
                copy_context().run, self._write, steps.description, percent, str(steps)
            )

    def _write(self, name: str, percent: float, said: str) -> None:
        try:
            if name in self._known:
                update_progress_artifact(self._known[name], percent, said)
            else:
                self._known[name] = cast(UUID, create_progress_artifact(percent, description=said))
        except Exception as error:  # noqa: BLE001  a figure on a page, of a server that may be away: work goes on
            logger.debug("progress of %s is not shown: %s", name, error)
