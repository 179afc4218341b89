"""Order and limits per host, waits, and giving up. No test sleeps through a wait."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from yarl import URL

from pipeline.images.outcome import PictureError, Redirect
from pipeline.images.politeness import HostQueues, Job, backoff, parse_retry_after
from schemas.tables import ImageStatus


def queues(workers: int = 1, **changes: Any) -> HostQueues:
    return HostQueues(**({"per_host": 2, "rate": None, "give_up_after": 3, "workers": workers} | changes))


async def ready(some: HostQueues) -> list[Job]:
    """Everything that may be started at this moment."""
    jobs: list[Job] = []
    while True:
        task = asyncio.ensure_future(some.take())
        for _ in range(3):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return jobs
        job = task.result()
        if job is None:
            return jobs
        jobs.append(job)


def test_hosts_take_turns_and_each_has_its_limit() -> None:
    async def scenario() -> None:
        some = queues()
        for url in "abcd":
            some.add(url, "slow", None)
        some.add("x", "other", None)
        started = await ready(some)
        assert [job.url for job in started] == ["a", "x", "b"]
        some.settle(started[0], None, unreachable=False)
        assert [job.url for job in await ready(some)] == ["c"]

    asyncio.run(scenario())


def test_a_host_that_asked_for_rest_is_left_alone_while_others_go_on() -> None:
    async def scenario() -> None:
        some = queues(per_host=1)
        for url in "ab":
            some.add(url, "busy", None)
            some.add(f"{url}2", "other", None)
        first, other = await ready(some)
        some.rest(first.host, 3600)
        some.retry(first, 0)
        some.settle(other, None, unreachable=False)
        assert [job.url for job in await ready(some)] == ["b2"]

    asyncio.run(scenario())


def test_a_rate_spaces_the_requests_to_one_host() -> None:
    async def scenario() -> None:
        some = queues(per_host=9, rate=50.0)
        loop = asyncio.get_running_loop()
        for url in "abcdef":
            some.add(url, "shop", None)
        begun = loop.time()
        for _ in range(6):
            await some.take()
        assert loop.time() - begun >= 5 / 50 * 0.9

    asyncio.run(scenario())


REDIRECT = Redirect(url=URL("http://another.example/"), number=1, seconds=0.0)


def test_redirected_jobs_keep_to_the_rate_of_the_host_they_lead_to() -> None:
    async def scenario() -> None:
        some = queues(rate=0.001)
        some.add("a", "shop", None)
        some.add("b", "other", None)
        _, job = await ready(some)
        some.move(job, REDIRECT, "shop")
        assert await ready(some) == []
        assert (job.host.name, job.redirect) == ("shop", REDIRECT)

    asyncio.run(scenario())


def test_no_more_jobs_of_a_host_wait_at_others_than_its_limit() -> None:
    async def scenario() -> None:
        some = queues()
        for url in "abcd":
            some.add(url, "fast", None)
        for job in await ready(some):
            some.move(job, REDIRECT, "slow")
        away = await ready(some)
        assert [job.url for job in away] == ["a", "b"]
        some.settle(away[0], None, unreachable=False)
        assert [job.url for job in await ready(some)] == ["c"]

    asyncio.run(scenario())


def test_hosts_that_redirect_to_each_other_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        some = queues(per_host=1)
        other = {"one": "two", "two": "one"}
        for name in other:
            for number in range(2):
                some.add(f"{name}{number}", name, None)
        for number in range(2):
            for job in await ready(some):
                some.move(job, REDIRECT, other[job.host.name])
            moved = await ready(some)
            assert {job.url for job in moved} == {f"one{number}", f"two{number}"}
            for job in moved:
                some.settle(job, None, unreachable=False)
        assert await some.take() is None

    asyncio.run(scenario())


def test_another_attempt_begins_at_the_catalogues_url() -> None:
    async def scenario() -> None:
        some = queues()
        some.add("a", "shop", None)
        (job,) = await ready(some)
        some.move(job, REDIRECT, "other")
        (job,) = await ready(some)
        some.retry(job, 0)
        again = await some.take()
        assert again is job
        assert (job.host.name, job.redirect, job.attempt) == ("shop", None, 1)

    asyncio.run(scenario())


def test_workers_end_once_everything_is_settled() -> None:
    async def scenario() -> None:
        some = queues(workers=3)
        some.add("a", "shop", None)
        job = await some.take()
        assert job is not None
        some.retry(job, 0)
        again = await some.take()
        assert again is job
        assert again.attempt == 1
        some.settle(again, None, unreachable=False)
        assert [await some.take() for _ in range(3)] == [None, None, None]

    asyncio.run(scenario())


def test_a_host_is_given_up_after_enough_losses_in_a_row_and_an_answer_starts_the_count_again() -> None:
    async def scenario() -> None:
        some = queues(per_host=1, give_up_after=2)
        lost = PictureError(ImageStatus.TIMEOUT, "no answer")
        for number in range(6):
            some.add(str(number), "shop", None)
        for unreachable in (True, False, True):
            job = await some.take()
            assert job is not None
            some.settle(job, lost if unreachable else None, unreachable=unreachable)
            assert job.host.given_up is None
        job = await some.take()
        assert job is not None
        some.settle(job, lost, unreachable=True)
        assert job.host.given_up is not None
        assert job.host.given_up[0] is ImageStatus.TIMEOUT

    asyncio.run(scenario())


def test_backoff_grows_to_its_bound_and_is_spread_over_the_whole_range() -> None:
    waits = [[backoff(attempt, base=1.0, longest=5.0) for _ in range(400)] for attempt in range(5)]
    for attempt, drawn in enumerate(waits):
        bound = min(5.0, 2.0**attempt)
        assert 0.0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound


def test_retry_after_is_a_count_or_a_date() -> None:
    assert parse_retry_after("120") == 120.0
    assert parse_retry_after(" 0 ") == 0.0
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    assert parse_retry_after(format_datetime(in_a_minute, usegmt=True)) == pytest.approx(60, abs=5)
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    offset, year = "Mon, 01 Jan 2001 00:00:00 +99999999999999", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    for nonsense in (None, "", "soon", "-5", "1e9", "²", offset, year):
        assert parse_retry_after(nonsense) is None
