"""What the client needs of an HTTP response, whichever library received it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from yarl import URL


@dataclass(frozen=True, slots=True)
class Response:
    """A response whose headers have arrived and whose body is still to be read.

    Attributes:
        headers: looked up without regard to case.
        pieces: the body, piece by piece as it arrives.
        delimited: whether the body says where it ends; if not, it ends with the connection, and a truncated body looks
            complete.
    """

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]
    delimited: bool


def is_delimited(headers: Mapping[str, str]) -> bool:
    """Whether an HTTP/1.1 body says where it ends (RFC 9112 §6.3)."""
    return "Content-Length" in headers or "Transfer-Encoding" in headers


class Transport(Protocol):
    """Sends GET requests. Redirects are not followed: they are responses like any other."""

    def get(self, url: URL, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Response]:
        """Send one request; its body can be read inside the `async with` block.

        Raises:
            The library's own exceptions; `network_errors.explain` turns them into reasons.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
