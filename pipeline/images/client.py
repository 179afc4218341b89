"""One request under guard: read a bounded body, or say where a redirect leads, or name what went wrong."""

import asyncio
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import quote, unquote

from yarl import URL

from pipeline.http import logins, usable_validator
from pipeline.images.addresses import AddressGuard, GuardedResolver, Lookup, system_lookup
from pipeline.images.answer import Answer, Transport
from pipeline.images.network_errors import NETWORK, explain
from pipeline.images.outcome import Fetched, Moved, PictureError, Validators
from pipeline.images.politeness import parse_retry_after
from pipeline.images.transports import Http1, Http2
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus

SMALL_BODY = 2 << 20
"""Bytes any request may buffer; more needs one of `LARGE_BODIES` places, which bounds the memory of all together."""
LARGE_BODIES = 4
Admit: TypeAlias = Callable[[], Awaitable[None]]
"""Waits for one of the places."""
_REDIRECTS = (301, 302, 303, 307, 308)
_STATUS = {
    401: ImageStatus.FORBIDDEN,
    403: ImageStatus.FORBIDDEN,
    404: ImageStatus.NOT_FOUND,
    410: ImageStatus.NOT_FOUND,
    429: ImageStatus.RATE_LIMITED,
    451: ImageStatus.FORBIDDEN,
}
_DROPPED = {ord(character): None for character in "\t\r\n"}
"""From within a URL, as browsers do."""
_TARGET = re.compile(r"(?:[a-z][a-z\d+.-]*:)?(?://[^/?#]*)?([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
"""Path and query."""
_ILLEGAL = re.compile(r"%(?![\da-f]{2})|[^\w.~!$&'()*+,;=:@/?\[\]%-]", re.IGNORECASE | re.ASCII)
"""A percent sign that escapes nothing, and what no URI may hold."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def parse_url(text: str) -> URL:
    """A catalogue's text as an absolute http, https or file URL.

    Raises:
        PictureError: INVALID_URL.
    """
    try:
        url = as_written(text.strip())
        host, port = url.host, url.port  # read in here: malformed punycode is noticed only now
    except ValueError as error:
        raise PictureError(ImageStatus.INVALID_URL, str(error)) from error
    if url.scheme not in ("http", "https", "file"):
        raise PictureError(ImageStatus.INVALID_URL, f"scheme {url.scheme!r} is not http or https")
    if url.scheme != "file" and (not host or not port):
        raise PictureError(ImageStatus.INVALID_URL, "the URL names no host")
    return url


def as_written(text: str) -> URL:
    """A URL or a reference whose path and query go onto the wire as they are, for they may be signed.

    Only what no URI may hold is escaped (RFC 3986). yarl's own reading would also unescape, e.g. `%2F` in a query.

    Raises:
        ValueError: no URL.
    """
    text = text.translate(_DROPPED)
    read = URL(text)
    if read.scheme == "file":
        return read
    parts = _TARGET.match(text)
    assert parts is not None  # it may be empty
    path, query = (_ILLEGAL.sub(_escaped, part or "") for part in parts.groups())
    return URL.build(scheme=read.scheme, authority=read.raw_authority, path=path, query_string=query, encoded=True)


def _escaped(found: re.Match[str]) -> str:
    return quote(found[0], safe="", errors="surrogateescape")  # as which headers keep bytes that are no UTF-8


class Client:
    """Fetches under one guard, through one transport. An async context manager."""

    def __init__(self, config: ImagesConfig, lookup: Lookup = system_lookup) -> None:
        self._config = config
        self._guard = AddressGuard(config.allowed_hosts)
        self._large = asyncio.Semaphore(LARGE_BODIES)
        self._logins = logins()
        self._headers = {
            "User-Agent": config.user_agent,
            "Accept": "image/*,*/*;q=0.1",
            "Accept-Encoding": "identity",
        }
        resolver = GuardedResolver(self._guard, lookup)
        self._transport: Transport = Http2(config, resolver) if config.http2 else Http1(config, resolver)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def fetch(
        self, text: str, validators: Validators | None, needed: AsyncExitStack, moved: Moved | None = None
    ) -> Fetched | Moved:
        """Get one file, within the configured times and sizes; a redirect is the caller's to follow.

        Args:
            needed: left by the caller when it has no more need of the body; a large one keeps its place until then.
            moved: where the last redirect led, to be asked instead of `text`.

        Raises:
            PictureError: anything else; `transient` where another attempt may help.
        """
        url = moved.url if moved else parse_url(text)
        redirects, seconds = (moved.redirects, moved.seconds) if moved else (0, 0.0)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._config.total_timeout - seconds) as deadline:
                admit = partial(self._admit, needed, deadline)
                if url.scheme == "file":
                    return await self._read_file(url, validators, admit)
                found = await self._ask(url, validators, admit)
        except NETWORK as error:
            raise explain(error, self._config) from error
        if isinstance(found, Fetched):
            return found
        if redirects == self._config.max_redirects:
            raise PictureError(ImageStatus.REDIRECT_ERROR, f"more than {self._config.max_redirects} redirects")
        return Moved(url=found, redirects=redirects + 1, seconds=seconds + time.monotonic() - begun)

    async def _admit(self, needed: AsyncExitStack, deadline: asyncio.Timeout) -> None:
        """Wait for a place among the large bodies; how long others keep theirs is no fault of this one."""
        loop = asyncio.get_running_loop()
        due, begun = deadline.when(), loop.time()
        assert due is not None
        deadline.reschedule(None)
        await needed.enter_async_context(self._large)
        deadline.reschedule(due + loop.time() - begun)

    async def _ask(self, url: URL, validators: Validators | None, admit: Admit) -> Fetched | URL:
        self._guard.check_literal(url.host or "", url.port)
        headers = self._headers | self._authorization(url) | _conditions(validators)
        async with self._transport.get(url.with_user(None), headers) as answer:
            if answer.status in _REDIRECTS:
                return _redirected(url, answer.headers)
            return await self._receive(answer, validators, admit)

    def _authorization(self, url: URL) -> dict[str, str]:
        """By the user that the URL names, else by the machine's login at its host; both transports send it alike."""
        named = url.user is not None or url.password is not None
        login = (url.user or "", url.password or "") if named else self._logins.get(url.host or "")
        if login is None:
            return {}
        return {"Authorization": f"Basic {b64encode(':'.join(login).encode()).decode()}"}  # RFC 7617

    async def _receive(self, answer: Answer, validators: Validators | None, admit: Admit) -> Fetched:
        if answer.status == 304 and validators is not None:
            return Fetched(body=None, validators=validators)
        if not 200 <= answer.status < 300:
            raise _refused(answer)
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._config.max_bytes:
            raise self._too_large(f"{int(length):,} bytes announced")
        body = await self._read(answer.pieces, admit)
        return Fetched(body=body, validators=_validators(answer.headers), delimited=answer.delimited)

    async def _read(self, arriving: AsyncIterator[bytes], admit: Admit) -> bytes:
        pieces: list[bytes] = []
        size = 0
        admitted = False
        async for piece in arriving:
            pieces.append(piece)
            size += len(piece)
            if size > self._config.max_bytes:
                raise self._too_large("the body is longer")
            if size > SMALL_BODY and not admitted:
                await admit()
                admitted = True
        return b"".join(pieces)

    async def _read_file(self, url: URL, validators: Validators | None, admit: Admit) -> Fetched:
        try:
            path, size, found = await asyncio.to_thread(find_file, url, self._config)
            if found == validators:
                return Fetched(body=None, validators=found)
            if size > self._config.max_bytes:
                raise self._too_large(f"{size:,} bytes")
            if size > SMALL_BODY:
                await admit()
            return Fetched(body=await asyncio.to_thread(path.read_bytes), validators=found)
        except PermissionError as error:  # says nothing of the files beside it, as an unreachable host would
            raise PictureError(ImageStatus.FORBIDDEN, "the file may not be read") from error

    def _too_large(self, what: str) -> PictureError:
        return PictureError(ImageStatus.TOO_LARGE, f"{what}; the limit is {self._config.max_bytes:,} bytes")


def find_file(url: URL, config: ImagesConfig) -> tuple[Path, int, Validators]:
    """The path of a file:// URL, its size in bytes and its "ETag", which is modification time and size.

    Raises:
        PictureError: BLOCKED_ADDRESS outside `file_root` (symbolic links followed), NOT_FOUND.
        OSError: the file cannot be looked at.
    """
    if config.file_root is None:
        raise PictureError(ImageStatus.BLOCKED_ADDRESS, "file:// URLs are not allowed; set file_root to a folder")
    path = Path(unquote(url.raw_path)).resolve()
    if url.host or not path.is_relative_to(Path(config.file_root).resolve()):
        raise PictureError(ImageStatus.BLOCKED_ADDRESS, "the file is outside file_root")
    if not path.is_file():
        raise PictureError(ImageStatus.NOT_FOUND, "no such file")
    stat = path.stat()
    return path, stat.st_size, Validators(etag=f'"{stat.st_mtime_ns}-{stat.st_size}"')


def _validators(headers: Mapping[str, str]) -> Validators:
    return Validators(
        etag=usable_validator(headers.get("ETag")), last_modified=usable_validator(headers.get("Last-Modified"))
    )


def _conditions(validators: Validators | None) -> dict[str, str]:
    if validators is None:
        return {}
    sent = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    # again, for what was kept before unusable ones were left out
    return {name: value for name, kept in sent.items() if (value := usable_validator(kept))}


def _redirected(url: URL, headers: Mapping[str, str]) -> URL:
    location = headers.get("Location")
    if not location:
        raise PictureError(ImageStatus.REDIRECT_ERROR, "a redirect without a location")
    try:
        target = url.join(as_written(location))
        host = target.host  # read in here: malformed punycode is noticed only now
    except ValueError as error:
        raise PictureError(ImageStatus.REDIRECT_ERROR, f"a redirect to a broken URL: {error}") from error
    if target.scheme not in ("http", "https") or not host:
        raise PictureError(ImageStatus.REDIRECT_ERROR, f"a redirect to {target.scheme or 'no'} scheme")
    return target


def _refused(answer: Answer) -> PictureError:
    return PictureError(
        _STATUS.get(answer.status, ImageStatus.HTTP_ERROR),
        f"HTTP {answer.status}",
        transient=answer.status in _TRANSIENT,
        retry_after=parse_retry_after(answer.headers.get("Retry-After")),
    )
