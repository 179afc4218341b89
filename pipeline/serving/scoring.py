"""Scores for requests that come at the same time: one product for all that wait."""

import asyncio
from collections import deque

from pipeline.serving.grouped import Records
from pipeline.serving.measures import TOGETHER
from pipeline.serving.model import Model, Wanted

SCORES = 1 << 24
"""Scores in memory at once: 64 MiB."""
MOST_TOGETHER = 64
WAITING = 256
"""Requests that may wait for scores; more are refused, as they would wait too long."""


class Overloaded(Exception):  # noqa: N818 - an answer to a client, not a fault
    """Too many requests wait."""


class Scoring:
    """The product reads all vectors of the catalogue, whether for one user or for many: who asks while it runs waits
    for the next one, which is for all of them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._most = max(1, min(MOST_TOGETHER, SCORES // max(1, model.size)))
        self._waiting: deque[tuple[Wanted, asyncio.Future[Records]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def best(self, wanted: Wanted) -> Records:
        """As `Model.best`, of one user.

        Raises:
            Overloaded: too many requests wait already.
        """
        if len(self._waiting) >= WAITING:
            raise Overloaded
        future: asyncio.Future[Records] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._until_nobody_waits())
        return await future

    async def _until_nobody_waits(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            asking = [(wanted, future) for wanted, future in batch if not future.done()]  # others have hung up
            if not asking:
                continue
            work = asyncio.to_thread(self.model.best, [wanted for wanted, _ in asking])
            outcome: tuple[list[Records] | BaseException] = await asyncio.gather(work, return_exceptions=True)
            answers = outcome[0]
            TOGETHER.observe(len(asking))
            for number, (_, future) in enumerate(asking):
                if future.done():
                    continue
                if isinstance(answers, BaseException):
                    future.set_exception(answers)
                else:
                    future.set_result(answers[number])
