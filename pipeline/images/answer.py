"""What the client needs of an HTTP response, whichever library got it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from yarl import URL


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (looked up without regard to case) and the body, a piece at a time as it arrives.

    Attributes:
        delimited: the body says where it ends; else it ends with the connection, and one cut off looks complete.
    """

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]
    delimited: bool


def delimited(headers: Mapping[str, str]) -> bool:
    """Whether an HTTP/1.1 body says where it ends (RFC 9112 §6.3)."""
    return "Content-Length" in headers or "Transfer-Encoding" in headers


class Transport(Protocol):
    """Sends one GET; the answer is open inside the `async with` block, and redirects are answers like any other."""

    def get(self, url: URL, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Answer]:
        """Raises: the library's own exceptions; `errors.explain` turns them into reasons."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
