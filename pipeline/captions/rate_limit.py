"""What a server says about when to come back, and a gate that every request passes."""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class RateLimit:
    """Closed until the moment the server named. Shared by all requests of a captioner."""

    def __init__(self) -> None:
        self._open_at = 0.0

    async def wait(self) -> None:
        """Return once requests are welcome again."""
        while (left := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def close_for(self, seconds: float) -> None:
        """No request starts for `seconds`."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Close where an answer says that nothing remains of the allowance (`x-ratelimit-remaining-*: 0`)."""
        for what in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{what}") == "0":
                pause = seconds_in(headers.get(f"x-ratelimit-reset-{what}", ""))
                if pause is not None:
                    self.close_for(pause)


def pause_asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal asks for: `retry-after-ms`, `retry-after` (seconds or a date), `x-ratelimit-reset-*`."""
    if (milliseconds := seconds_in(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    after = headers.get("retry-after", "")
    if (seconds := seconds_in(after)) is not None:
        return seconds
    try:
        return max((parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        pass
    resets = (
        seconds_in(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    )
    return max((reset for reset in resets if reset is not None), default=None)


def seconds_in(text: str) -> float | None:
    """Seconds in "20", "1.5s", "6m0s" or "250ms"; None where it is none of these."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
