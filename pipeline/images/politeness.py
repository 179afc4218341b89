"""Which host is asked next, and when: limits per host, waits after a refusal, and giving up unresponsive hosts."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pipeline.images.outcome import PictureError, Redirect, Validators
from schemas.tables import ImageStatus


@dataclass(slots=True)
class Job:
    """One URL still to be settled; `attempt` counts from 0.

    Attributes:
        home: the host that the URL names.
        host: the host to ask next: `home`, or the target of a redirect.
        redirect: that redirect; None at the start of an attempt.
    """

    url: str
    home: "Host"
    host: "Host"
    validators: Validators | None = None
    attempt: int = 0
    redirect: Redirect | None = None


@dataclass(slots=True)
class Host:
    """The queue and the state of one `host:port`. Times are the event loop's, in seconds.

    Attributes:
        pending: its own jobs.
        arrivals: jobs that were redirected to it; they go first.
        active: requests in flight to it.
        away: its own jobs that were redirected to other hosts and are not settled yet.
        not_before: when it may be asked next.
        announced: it is in the queue of hosts that may be asked, or will be once its wait is over.
        lost_in_a_row: consecutive jobs that failed because of the host.
        given_up: status and reason for the rest of its jobs; None while it is asked.
    """

    name: str
    pending: deque[Job] = field(default_factory=deque)
    arrivals: deque[Job] = field(default_factory=deque)
    active: int = 0
    away: int = 0
    not_before: float = 0.0
    announced: bool = False
    lost_in_a_row: int = 0
    given_up: tuple[ImageStatus, str] | None = None


class HostQueues:
    """Hands jobs to workers host by host in turn, so that a slow or resting host never holds the others up."""

    def __init__(self, *, per_host: int, rate: float | None, give_up_after: int, workers: int) -> None:
        self._per_host = per_host
        self._interval = 1 / rate if rate else 0.0
        self._give_up_after = give_up_after
        self._workers = workers
        self._hosts: dict[str, Host] = {}
        self._ready: asyncio.Queue[Host | None] = asyncio.Queue()
        self._unsettled = 0
        self._loop = asyncio.get_running_loop()

    def add(self, url: str, host_name: str, validators: Validators | None) -> None:
        """Queue one URL."""
        host = self._host(host_name)
        host.pending.append(Job(url, host, host, validators))
        self._unsettled += 1
        self._announce(host)

    def close_if_settled(self) -> None:
        """End the workers once nothing is queued, in flight or waiting for another attempt."""
        if self._unsettled == 0:
            for _ in range(self._workers):
                self._ready.put_nowait(None)

    async def take(self) -> Job | None:
        """The next job whose host may be asked now; None when all are settled."""
        while (host := await self._ready.get()) is not None:
            host.announced = False
            if host.given_up is not None or host.not_before <= self._loop.time():
                return self._start(host)
            self._announce(host)  # it asked for a rest after it was announced
        return None

    def settle(self, job: Job, failure: PictureError | None, *, unreachable: bool) -> None:
        """The job has its outcome. After enough unreachable ones in a row, the host is given up for this run."""
        host = job.host
        host.lost_in_a_row = host.lost_in_a_row + 1 if unreachable else 0
        if failure is not None and host.given_up is None and host.lost_in_a_row >= self._give_up_after:
            reason = f"{host.name} given up after {host.lost_in_a_row} failures in a row; the last: {failure.reason}"
            host.given_up = (failure.status, reason)
        self.leave(job)

    def leave(self, job: Job) -> None:
        """The job has ended, and says nothing about whether its host can be reached."""
        self._unsettled -= 1
        self._release(job)
        self.close_if_settled()

    def retry(self, job: Job, delay: float) -> None:
        """Queue the job again after `delay` seconds; until then its place is free for others."""
        self._release(job)
        job.attempt, job.host, job.redirect = job.attempt + 1, job.home, None
        self._loop.call_later(delay, self._requeue, job)

    def move(self, job: Job, redirect: Redirect, host_name: str) -> None:
        """The host answered with a redirect: the job joins the queue of the host that it leads to."""
        job.host.lost_in_a_row = 0
        target = self._host(host_name)
        if target is not job.home:
            job.home.away += 1
        self._release(job)
        job.host, job.redirect = target, redirect
        target.arrivals.append(job)
        self._announce(target)

    def rest(self, host: Host, seconds: float) -> None:
        """The host asked not to be contacted for a while."""
        host.not_before = max(host.not_before, self._loop.time() + seconds)

    def _start(self, host: Host) -> Job:
        job = (host.arrivals or host.pending).popleft()
        host.active += 1
        host.not_before = max(host.not_before, self._loop.time() + self._interval)
        self._announce(host)
        return job

    def _requeue(self, job: Job) -> None:
        job.host.pending.appendleft(job)
        self._announce(job.host)

    def _release(self, job: Job) -> None:
        job.host.active -= 1
        if job.host is not job.home:
            job.home.away -= 1
            self._announce(job.home)
        self._announce(job.host)

    def _host(self, name: str) -> Host:
        return self._hosts.setdefault(name, Host(name))

    def _may_start(self, host: Host) -> bool:
        """Whether the limit allows another request to the host.

        Its jobs that are away count too, or a fast host would move its whole queue to a slow one. They do not delay
        arrivals, so two hosts that redirect to each other never wait for each other.
        """
        if host.arrivals:
            return host.active < self._per_host
        return bool(host.pending) and host.active + host.away < self._per_host

    def _announce(self, host: Host) -> None:
        """Put the host into the queue of hosts that may be asked, once, now or as soon as its wait is over."""
        if host.announced or not self._may_start(host):
            return
        host.announced = True
        wait = 0.0 if host.given_up else host.not_before - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._ready.put_nowait, host)
        else:
            self._ready.put_nowait(host)


def backoff(attempt: int, *, base: float, longest: float) -> float:
    """Seconds to wait after failed attempt `attempt` (from 0): exponential with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(longest, base * 2.0**attempt))  # noqa: S311 - spreads load, guards no secret


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110 §10.2.3); None if absent or malformed."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # OverflowError: a year or an offset of many digits
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
