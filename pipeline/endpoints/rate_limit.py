"""When a server wants the next request, and a gate that every request waits at."""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class RateLimit:
    """A gate that is closed until the time the server named. Shared by all requests to an endpoint."""

    def __init__(self) -> None:
        self._open_at = 0.0

    async def wait(self) -> None:
        """Return once the gate is open."""
        while (left := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def close_for(self, seconds: float) -> None:
        """Let no request start for `seconds`."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Close if a response says that the quota is used up (`x-ratelimit-remaining-*: 0`)."""
        for quota in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{quota}") == "0":
                pause = parse_duration(headers.get(f"x-ratelimit-reset-{quota}", ""))
                if pause is not None:
                    self.close_for(pause)


def requested_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait after a refusal: `retry-after-ms`, `retry-after` (seconds or a date), `x-ratelimit-reset-*`."""
    if (milliseconds := parse_duration(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    after = headers.get("retry-after", "")
    if (seconds := parse_duration(after)) is not None:
        return seconds
    try:
        return max((parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        pass
    resets = (
        parse_duration(headers.get(f"x-ratelimit-reset-{quota}", ""))
        for quota in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{quota}") == "0"
    )
    return max((reset for reset in resets if reset is not None), default=None)


def parse_duration(text: str) -> float | None:
    """Seconds, from texts like "20", "1.5s", "6m0s" or "250ms"; None if the text is no duration."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
