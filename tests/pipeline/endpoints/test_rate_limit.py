"""What a server says about the next request, and the gate that it closes."""

import pytest

from pipeline.endpoints.rate_limit import RateLimit, parse_duration, requested_pause


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("1.5s", 1.5), ("6m0s", 360), ("250ms", 0.25), ("1h2m", 3720), ("soon", None), ("", None)],
)
def test_durations_are_read_as_servers_write_them(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_retry_after_may_be_a_date() -> None:
    assert requested_pause({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert requested_pause({"retry-after": "whenever"}) is None
    assert requested_pause({"retry-after-ms": "1500"}) == 1.5


def test_an_allowance_that_is_left_closes_nothing() -> None:
    limit = RateLimit()
    limit.heed({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1h"})
    assert limit._open_at == 0
