"""One guarded request: it reads a body of bounded size, or says where a redirect leads, or names what went wrong."""

import asyncio
import errno
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import unquote

from aiohttp import ClientResponse
from pyarrow import ArrowException
from yarl import URL

from pipeline.addresses import AddressGuard, Lookup, system_lookup
from pipeline.http import login_at, logins, usable_validator
from pipeline.images.network_errors import NETWORK, explain
from pipeline.images.outcome import Fetched, PictureError, Redirect, Validators
from pipeline.images.politeness import parse_retry_after
from pipeline.images.resolver import GuardedResolver
from pipeline.images.session import is_delimited, open_session
from pipeline.images.urls import as_written, data_of, is_data, parse_url
from pipeline.parquet_pictures import ParquetPictures
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus

SMALL_BODY = 2 << 20
"""Bytes that every request may buffer; a larger body needs one of the `LARGE_BODIES` places, which bounds memory."""
LARGE_BODIES = 4
Admit: TypeAlias = Callable[[], Awaitable[None]]
"""Waits for one of these places."""
_REDIRECTS = (301, 302, 303, 307, 308)
_STATUS = {
    401: ImageStatus.FORBIDDEN,
    403: ImageStatus.FORBIDDEN,
    404: ImageStatus.NOT_FOUND,
    410: ImageStatus.NOT_FOUND,
    429: ImageStatus.RATE_LIMITED,
    451: ImageStatus.FORBIDDEN,
}
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class Client:
    """Sends requests through one guard and one session. An async context manager."""

    def __init__(self, config: ImagesConfig, lookup: Lookup = system_lookup) -> None:
        self._config = config
        self._guard = AddressGuard(config.allowed_hosts)
        self._parquet = ParquetPictures()
        self._large = asyncio.Semaphore(LARGE_BODIES)
        self._logins = logins()
        self._headers = {
            "User-Agent": config.user_agent,
            "Accept": "image/*,*/*;q=0.1",
            "Accept-Encoding": "identity",
        }
        self._session = open_session(config, GuardedResolver(self._guard, lookup))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(
        self, text: str, validators: Validators | None, scope: AsyncExitStack, redirect: Redirect | None = None
    ) -> Fetched | Redirect:
        """Fetch one file within the configured limits of time and size; redirects are left to the caller.

        Args:
            text: the URL as the catalogue has it.
            scope: closed by the caller once it no longer needs the body; until then a large body occupies its place.
            redirect: the last redirect of this attempt, whose URL is asked instead of `text`.

        Raises:
            PictureError: every failure; `transient` if another attempt may succeed.
        """
        if is_data(text):
            return self._read_data(text)
        url = redirect.url if redirect else parse_url(text)
        redirects, seconds = (redirect.number, redirect.seconds) if redirect else (0, 0.0)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._config.total_timeout - seconds) as deadline:
                admit = partial(self._admit, scope, deadline)
                if url.scheme == "file":
                    return await self._read_file(url, validators, admit)
                result = await self._request(url, validators, admit)
        except NETWORK as error:
            raise explain(error, self._config) from error
        if isinstance(result, Fetched):
            return result
        if redirects == self._config.max_redirects:
            raise PictureError(ImageStatus.REDIRECT_ERROR, f"more than {self._config.max_redirects} redirects")
        return Redirect(url=result, number=redirects + 1, seconds=seconds + time.monotonic() - started)

    async def _admit(self, scope: AsyncExitStack, deadline: asyncio.Timeout) -> None:
        """Wait for a place among the large bodies. The wait does not count against this request's time."""
        loop = asyncio.get_running_loop()
        due, started = deadline.when(), loop.time()
        assert due is not None
        deadline.reschedule(None)
        await scope.enter_async_context(self._large)
        deadline.reschedule(due + loop.time() - started)

    async def _request(self, url: URL, validators: Validators | None, admit: Admit) -> Fetched | URL:
        """The file, or the URL that a redirect leads to."""
        self._guard.check_literal(url.host or "", url.port)
        headers = self._headers | self._authorization(url) | _conditions(validators)
        async with self._session.get(url.with_user(None), headers=headers, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return _redirect_target(url, response.headers)
            return await self._receive(response, validators, admit)

    def _authorization(self, url: URL) -> dict[str, str]:
        """The URL's own user, or else this machine's login for the host."""
        has_user = url.user is not None or url.password is not None
        own = (url.user or "", url.password or "") if has_user else None
        login = own or login_at(self._logins, url.scheme, url.host, url.port)
        if login is None:
            return {}
        return {"Authorization": f"Basic {b64encode(':'.join(login).encode()).decode()}"}  # RFC 7617

    async def _receive(self, response: ClientResponse, validators: Validators | None, admit: Admit) -> Fetched:
        if response.status == 304 and validators is not None:
            return Fetched(body=None, validators=validators)
        if not 200 <= response.status < 300:
            raise _refused(response)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._config.max_bytes:
            raise self._too_large(f"{int(length):,} bytes announced")
        body = await self._read(response.content.iter_any(), admit)
        return Fetched(body=body, validators=_validators(response.headers), delimited=is_delimited(response))

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

    def _read_data(self, text: str) -> Fetched:
        if len(text) > 2 * self._config.max_bytes:
            raise self._too_large(f"{len(text):,} characters")
        body = data_of(text)
        if len(body) > self._config.max_bytes:
            raise self._too_large(f"{len(body):,} bytes")
        return Fetched(body=body, validators=Validators())

    async def _read_file(self, url: URL, validators: Validators | None, admit: Admit) -> Fetched:
        try:
            path, size, current = await asyncio.to_thread(_locate_file, url, self._config)
            if current == validators:
                return Fetched(body=None, validators=current)
            if url.raw_fragment:
                return Fetched(body=await self._read_embedded(path, url.raw_fragment), validators=current)
            if size > self._config.max_bytes:
                raise self._too_large(f"{size:,} bytes")
            if size > SMALL_BODY:
                await admit()
            return Fetched(body=await asyncio.to_thread(path.read_bytes), validators=current)
        except PermissionError as error:  # not CONNECT_ERROR: it must not count against the files beside it
            raise PictureError(ImageStatus.FORBIDDEN, "the file may not be read") from error

    async def _read_embedded(self, path: Path, fragment: str) -> bytes:
        """A picture in a column of a Parquet file."""
        try:
            body = await asyncio.to_thread(self._parquet.read, path, fragment)
        except (LookupError, ValueError, ArrowException) as error:
            raise PictureError(ImageStatus.NOT_FOUND, "the Parquet file has no such picture") from error
        if len(body) > self._config.max_bytes:
            raise self._too_large(f"{len(body):,} bytes")
        return body

    def _too_large(self, what: str) -> PictureError:
        return PictureError(ImageStatus.TOO_LARGE, f"{what}; the limit is {self._config.max_bytes:,} bytes")


def _locate_file(url: URL, config: ImagesConfig) -> tuple[Path, int, Validators]:
    """The path of a file:// URL, its size in bytes and its "ETag", made of modification time and size.

    Raises:
        PictureError: BLOCKED_ADDRESS outside `file_root` and `allowed_folders` (symbolic links followed), NOT_FOUND.
        OSError: the file's size and date cannot be read.
    """
    if config.file_root is None:
        raise PictureError(
            ImageStatus.BLOCKED_ADDRESS, "file:// URLs are not allowed; set images.file_root to a folder"
        )
    written = Path(unquote(url.raw_path))
    try:
        path = written.resolve(strict=False)
        is_file = path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise PictureError(ImageStatus.INVALID_URL, "no file can have so long a name") from error
    folders = [Path(folder).resolve() for folder in (config.file_root, *config.allowed_folders)]
    if url.host or not any(map(path.is_relative_to, folders)):
        raise PictureError(ImageStatus.BLOCKED_ADDRESS, _outside(written, path, config.file_root))
    if not is_file:
        raise PictureError(ImageStatus.NOT_FOUND, "no such file")
    stat = path.stat()
    return path, stat.st_size, Validators(etag=f'"{stat.st_mtime_ns}-{stat.st_size}"')


def is_as_before(url: str, validators: Validators | None, status: str | None, config: ImagesConfig) -> bool:
    """Whether a file:// URL would give what it gave: a file of the same date and size, or the same failure.

    Args:
        validators, status: of the kept outcome; None: there is none.
    """
    try:
        _, _, now = _locate_file(as_written(url), config)
        return validators is not None and now.etag == validators.etag
    except PictureError as error:
        return error.status == status
    except OSError:
        return False


def _outside(written: Path, path: Path, root: str) -> str:
    """Why a file is not read, and what to do if it should be; names the symbolic link that leads out, if one does."""
    link = next((part for part in (*reversed(written.parents), written) if _leads_out(part, Path(root))), None)
    if link is None:
        return f"the file is outside images.file_root, {root}; to read it, add its folder to images.allowed_folders"
    folder = link.resolve() if link.is_dir() else path.parent
    return f"{link} is a link that leads out of images.file_root; to follow it, add {folder} to images.allowed_folders"


def _leads_out(path: Path, root: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(root.resolve()) and path != root


def _validators(headers: Mapping[str, str]) -> Validators:
    return Validators(
        etag=usable_validator(headers.get("ETag")), last_modified=usable_validator(headers.get("Last-Modified"))
    )


def _conditions(validators: Validators | None) -> dict[str, str]:
    """The headers of a conditional request (RFC 9110 §13.1)."""
    if validators is None:
        return {}
    headers = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: value for name, value in headers.items() if value is not None}


def _redirect_target(url: URL, headers: Mapping[str, str]) -> URL:
    location = headers.get("Location")
    if not location:
        raise PictureError(ImageStatus.REDIRECT_ERROR, "a redirect without a location")
    try:
        target = url.join(as_written(location))
        host = target.host  # inside `try`: yarl notices malformed punycode only now
    except ValueError as error:
        raise PictureError(ImageStatus.REDIRECT_ERROR, "a redirect to a broken URL") from error
    if target.scheme not in ("http", "https") or not host:
        raise PictureError(ImageStatus.REDIRECT_ERROR, "a redirect to something other than http or https")
    return target


def _refused(response: ClientResponse) -> PictureError:
    return PictureError(
        _STATUS.get(response.status, ImageStatus.HTTP_ERROR),
        f"HTTP {response.status}",
        transient=response.status in _TRANSIENT,
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )
