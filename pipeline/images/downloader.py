"""Many URLs at once: coroutines fetch on an event loop in a thread of its own, other processes decode, and the caller
takes what has finished."""

import asyncio
import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack
from typing import TypeAlias

from anyio.from_thread import start_blocking_portal

from pipeline.addresses import Lookup, system_lookup
from pipeline.images.client import Client
from pipeline.images.decode import Picture
from pipeline.images.decoders import Decoders
from pipeline.images.outcome import UNREACHABLE, Fetched, Outcome, PictureError, Redirect, Validators
from pipeline.images.politeness import HostQueues, Job, backoff
from pipeline.images.urls import host_name, host_of
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus

logger = logging.getLogger(__name__)

WAKE = 0.2
"""Seconds between two lists for the caller, who can then notice a cancellation even while all servers hang."""
Results: TypeAlias = "asyncio.Queue[Outcome | None]"
"""Outcomes on their way to the caller's thread; None comes last."""
RECENT = 8192
"""Digests remembered besides those that the caller has kept: more than can be finished but not yet kept."""


def download(
    urls: Mapping[str, Validators | None],
    *,
    config: ImagesConfig,
    has_picture: Callable[[str], bool],
    lookup: Lookup = system_lookup,
) -> Generator[list[Outcome], None, None]:
    """Settle every URL; yields what has finished since the last list, in any order. A list may be empty.

    The event loop has a thread of its own, so Ctrl-C and a cancelled flow take effect at once: closing this iterator
    cancels all requests. Works inside and outside a running event loop.

    Args:
        urls: each URL once, with the validators of the picture kept for it, if there is one.
        has_picture: whether the bytes with this SHA-256 were decoded and kept before.
    """
    with start_blocking_portal() as portal:
        results: Results = portal.call(asyncio.Queue, config.shard_rows)
        downloader = Downloader(config, results, has_picture)
        work = portal.start_task_soon(downloader.run, urls, lookup)
        try:
            more = True
            while more and not (work.done() and results.empty()):
                finished, more = portal.call(_collect, results, config.shard_rows)
                yield finished
            work.result()
        finally:
            work.cancel()


async def _collect(results: Results, most: int) -> tuple[list[Outcome], bool]:
    """What finishes within `WAKE`, at most `most` outcomes, and whether more may come."""
    finished: list[Outcome] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WAKE):
            while len(finished) < most:
                outcome = await results.get()
                if outcome is None:
                    return finished, False
                finished.append(outcome)
    return finished, True


class Downloader:
    """The concurrent work of one run. All methods run on the event loop; pictures are decoded in other processes."""

    def __init__(self, config: ImagesConfig, results: Results, has_picture: Callable[[str], bool]) -> None:
        self._config = config
        self._results = results
        self._has_picture = has_picture
        self._decoding: dict[str, asyncio.Task[Picture]] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._decoders = Decoders(config)

    async def run(self, urls: Mapping[str, Validators | None], lookup: Lookup) -> None:
        """Settle every URL and put its outcome into the queue, which holds the workers back when it is full."""
        config = self._config
        workers = min(config.concurrency, len(urls))
        queues = HostQueues(
            per_host=config.per_host,
            rate=config.per_host_rate,
            give_up_after=config.give_up_host_after,
            workers=workers,
        )
        for url, validators in urls.items():
            queues.add(url, host_of(url), validators)
        queues.close_if_settled()
        async with self._decoders, Client(config, lookup) as client, asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(queues, client))
        await self._results.put(None)

    async def _work(self, queues: HostQueues, client: Client) -> None:
        while (job := await queues.take()) is not None:
            if (outcome := await self._step(job, queues, client)) is not None:
                await self._results.put(outcome)

    async def _step(self, job: Job, queues: HostQueues, client: Client) -> Outcome | None:
        """Send one request, unless the host was given up. None if the job needs another request."""
        if job.host.given_up is not None:
            status, reason = job.host.given_up
            queues.leave(job)
            return Outcome(url=job.url, status=status, error=reason, asked=job.attempt > 0)
        failure: PictureError | None = None
        try:
            async with AsyncExitStack() as scope:
                result = await self._fetch(job, client, scope)
                if isinstance(result, Redirect):
                    queues.move(job, result, host_name(result.url))
                    return None
                outcome = await self._outcome(job.url, result)
        except PictureError as error:
            # The traceback refers to this frame: the reference cycle would keep the received bytes in memory.
            failure = error.with_traceback(None)
            if error.retry_after and not self._wait_is_too_long(error):
                queues.rest(job.host, error.retry_after)  # for the host's other jobs, even if this one ends
            delay = self._delay(job, error)
            if delay is not None:
                queues.retry(job, delay)
                return None
            outcome = Outcome(url=job.url, status=error.status, error=error.reason)
        queues.settle(job, failure, unreachable=failure is not None and self._counts_against_host(failure))
        return outcome

    async def _fetch(self, job: Job, client: Client, scope: AsyncExitStack) -> Fetched | Redirect:
        try:
            return await client.fetch(job.url, job.validators, scope, job.redirect)
        except PictureError:
            raise
        except Exception as error:  # one strange server must not end the run for all the others
            logger.warning("unexpected failure of %s", job.url, exc_info=True)
            raise PictureError(ImageStatus.HTTP_ERROR, f"unexpected {type(error).__name__}") from error

    async def _outcome(self, url: str, fetched: Fetched) -> Outcome:
        """What the bytes turn out to be."""
        body = fetched.body
        if body is None:
            return Outcome(url=url, status=None, validators=fetched.validators)
        sha256 = hashlib.sha256(body).hexdigest()
        picture: Picture | None = None
        reason: str | None = None
        status = ImageStatus.OK
        try:
            picture = await self._picture(sha256, body)
        except PictureError as error:
            status, reason = error.status, error.reason
            if status == ImageStatus.DECODE_ERROR and not fetched.delimited:  # for a later run to ask again
                status, reason = ImageStatus.CONNECT_ERROR, f"the answer may have broken off before its end: {reason}"
        return Outcome(
            url=url, status=status, error=reason, sha256=sha256, picture=picture, validators=fetched.validators
        )

    async def _picture(self, sha256: str, body: bytes) -> Picture | None:
        """Decode in another process; None if the same bytes were decoded before, by an earlier run or a moment ago."""
        if sha256 in self._recent or self._has_picture(sha256):
            return None
        if sha256 in self._decoding:
            return await asyncio.shield(self._decoding[sha256])
        task = asyncio.create_task(self._decoders.decode(body))
        self._decoding[sha256] = task
        try:
            picture = await task
        finally:
            # A failure's traceback refers to this frame: the reference cycle would keep the body in memory.
            del self._decoding[sha256], task
        self._recent[sha256] = None
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return picture

    def _wait_is_too_long(self, failure: PictureError) -> bool:
        """Whether the host asks for a longer wait than this run allows."""
        return (failure.retry_after or 0.0) > self._config.max_retry_after

    def _counts_against_host(self, failure: PictureError) -> bool:
        return failure.status in UNREACHABLE or self._wait_is_too_long(failure)

    def _delay(self, job: Job, failure: PictureError) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        config = self._config
        if not failure.transient or job.host.given_up is not None or job.attempt + 1 >= config.attempts:
            return None
        if failure.retry_after is not None:
            return None if self._wait_is_too_long(failure) else failure.retry_after
        return backoff(job.attempt, base=config.backoff, longest=config.max_backoff)
