"""A distribution's own files: read from a folder, or downloaded once into a cache that survives a crash."""

import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import httpx
import stamina

from pipeline.addresses import AddressRefused
from pipeline.http import guarded_client, usable_validator
from pipeline.ingest.downloads import RawFile as RawFile
from pipeline.ingest.downloads import Target, TryAgain, read_json, sha256
from pipeline.ingest.objects import PATTERN, Objects
from pipeline.progress import track
from pipeline.store import digest
from schemas.errors import UserError
from schemas.lineage import CODE_VERSION

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
MAX_REDIRECTS = 5
LISTED = 20
"""Names shown of a folder that lacks a file."""
T = TypeVar("T")


class RawFiles:
    """Raw files in a folder, under a base URL, in an object store, or (`location` empty) at a public address each.

    Args:
        cache: folder of downloads; nothing is written there for a local folder.
        public: name → URL of the public distribution.
        field: parameter that a person would change, for messages.
        attempts: requests for one file before giving up.
        wait: seconds before the second attempt; doubled for each further one.
    """

    def __init__(
        self,
        location: str,
        cache: Path,
        public: Mapping[str, str] | None = None,
        *,
        field: str = "raw",
        attempts: int = 6,
        wait: float = 0.5,
    ) -> None:
        self.location = location.removesuffix("/")
        self.cache = cache / digest(self.location or "public")
        self.public = public or {}
        self.field = field
        self._attempts, self._wait = attempts, wait
        self.folder: Path | None = None
        self._objects: Objects | None = None
        if location.startswith("file://"):
            self.folder = Path(unquote(urlsplit(location).path))
        elif location and not location.startswith(("http://", "https://")):
            if "://" in location:
                self._objects = Objects(self.location, field)
            else:
                self.folder = Path(location).expanduser().absolute()

    @property
    def base(self) -> str | None:
        """What relative picture addresses are relative to: a URL with a trailing slash; None for public files."""
        if self.folder is not None:
            return self.folder.as_uri().removesuffix("/") + "/"
        return f"{self.location}/" if self.location else None

    def names(self, name: str) -> list[str] | None:
        """The files below a folder, or that a pattern such as `part-*.parquet` names, relative to the place and sorted;
        without those that Spark and its like hide by `_` or `.`. None if it is no folder and no pattern.

        Raises:
            UserError: the place cannot be reached.
        """
        if self.folder is not None:
            listed = _local_names(self.folder, name)
        elif self._objects is not None:
            objects = self._objects
            listed = self._patiently(lambda: objects.names(name))
        else:
            return None
        return None if listed is None else sorted(n for n in listed if not _is_hidden(n))

    def find(self, what: str, names: Sequence[str]) -> str:
        """The first of `names` that exists.

        Args:
            what: for the message, e.g. "the reviews".

        Raises:
            UserError: none exists, or the place cannot be reached.
        """
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"{self.field}: {self.folder} is not a folder. Give the folder that holds {names[0]}.")
        for name in names:
            if self.exists(name):
                return name
        if self.folder is not None:
            present = sorted(path.name for path in self.folder.iterdir())
            more = f" and {len(present) - LISTED} more" if len(present) > LISTED else ""
            instead = f"{self.folder} holds {', '.join(present[:LISTED]) or 'nothing'}{more}"
        elif self._objects is not None:
            present = self._patiently(self._objects.listing)
            instead = f"{self.location}/ holds {', '.join(present[:LISTED]) or 'nothing'}"
            instead += f" and {len(present) - LISTED} more" if len(present) > LISTED else ""
        else:
            instead = f"not found (404): {', '.join(self._url(name) for name in names)}"
        raise UserError(
            f"{self.field}: {what} not found. Expected {' or '.join(names)}; {instead}. "
            f"Check the name and `{self.field}`."
        )

    def fetch(self, name: str) -> RawFile:
        """The file with its SHA-256, downloaded unless it is on this machine.

        A download resumes where it broke off if the server can tell that the file is the same. A cached file is used if
        the server says that it has not changed, or cannot be reached.

        Raises:
            UserError: missing, unreachable after several attempts, or not what its name says.
        """
        if self.folder is not None:
            path = self.folder / name
            return RawFile(name, path, sha256(path, name), str(path))
        target = Target(self.cache, name, self._url(name))
        try:
            with target.locked():
                return self._download(target)
        except OSError as error:
            raise UserError(
                f"Could not keep {target.url} at {target.path}: {error}. Free space or mend the folder, then run again "
                "to resume."
            ) from error

    def _download(self, target: Target) -> RawFile:
        try:
            for attempt in self._retries():
                with attempt:
                    if self._objects is not None:
                        return self._objects.download(target)
                    with self._client(target.url) as client:
                        return _Download(client, target).run()
        except TryAgain as error:
            if (cached := target.cached()) is not None:
                logger.warning("%s: %s; using the copy downloaded before", target.url, error)
                return target.file(cached["sha256"])
            raise UserError(
                f"{self.field}: could not download {target.url}: {error}. Run again to resume, or download it yourself "
                f"and give its folder as `raw`."
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            UserError: the place cannot be reached.
        """
        if self.folder is not None:
            return (self.folder / name).is_file()
        url = self._url(name)
        try:
            return self._patiently(lambda: self._objects.exists(name) if self._objects else self._answers(url))
        except UserError:
            if Target(self.cache, name, url).cached() is not None:
                return True
            raise

    def _answers(self, url: str) -> bool:
        with self._client(url) as client, _transport(url):
            answer = client.head(url)
            if answer.status_code in (403, 405, 501):  # servers that only know GET
                with client.stream("GET", url) as answer:
                    pass
            _raise_for(answer, url)
            return answer.status_code < 400

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while a failure may pass.

        Raises:
            UserError: it did not.
        """
        try:
            for attempt in self._retries():
                with attempt:
                    return ask()
        except TryAgain as error:
            raise UserError(
                f"{self.field}: cannot reach {self.location or 'the public files'}: {error}. Check the address and the "
                "network."
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _url(self, name: str) -> str:
        return f"{self.location}/{quote(name)}" if self.location else self.public[name]

    def _client(self, url: str) -> httpx.Client:
        # identity: we want the file's own bytes, not the server's compression of them
        headers = {"User-Agent": f"cm3-features/{CODE_VERSION}", "Accept-Encoding": "identity"}
        return guarded_client(url, timeout=TIMEOUT, follow_redirects=True, max_redirects=MAX_REDIRECTS, headers=headers)

    def _retries(self) -> Any:
        return stamina.retry_context(
            on=TryAgain,
            attempts=self._attempts,
            timeout=None,
            wait_initial=self._wait,
            wait_max=20 * self._wait,
            wait_jitter=self._wait,
        )


class _transport:  # noqa: N801 - reads as a word: `with _transport(url)`
    """Sort httpx's errors into those that may pass and those that a person must mend."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, httpx.TooManyRedirects):
            raise UserError(f"{self.url}: more than {MAX_REDIRECTS} redirects. Give the final address.") from error
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | UnicodeError):  # the last: IDNA
            raise UserError(f"{self.url} is not an address that can be downloaded: {error}.") from error
        if isinstance(error, AddressRefused):
            raise UserError(
                f"{self.url} leads to an address that this machine does not follow it to: {error}. If it is to be "
                "read, give that address itself."
            ) from error
        if isinstance(error, httpx.TransportError):
            if _unknown_host(error):
                host = urlsplit(self.url).hostname
                raise UserError(
                    f"The host {host!r} of {self.url} is unknown (no such name, or no network). Check the address, or "
                    "download the files elsewhere and give their folder as `raw`."
                ) from error
            raise TryAgain(f"{type(error).__name__}: {error}") from error


def _unknown_host(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN


def _raise_for(answer: httpx.Response, url: str) -> None:
    """Raise for every error except 404, 410 and 416, which the caller handles."""
    status = answer.status_code
    if status in (408, 425, 429) or status >= 500:
        raise TryAgain(f"HTTP {status}")
    if status >= 400 and status not in (404, 410, 416):
        raise UserError(
            f"{url} answers HTTP {status} ({answer.reason_phrase}). Check that you may read it; a login belongs in "
            "~/.netrc."
        )


class _Download:
    """One attempt at one file over HTTP."""

    def __init__(self, client: httpx.Client, target: Target) -> None:
        self.client, self.target = client, target

    def run(self) -> RawFile:
        url, cached = self.target.url, self.target.cached()
        resumable = 0 if cached else self._resumable()
        headers = _conditions(cached) if cached else self._range(resumable) if resumable else {}
        with _transport(url), self.client.stream("GET", url, headers=headers) as answer:
            _raise_for(answer, url)
            if answer.status_code in (404, 410):
                raise UserError(f"{url} does not exist (HTTP {answer.status_code}). Check the name and `raw`.")
            if cached and answer.status_code == 304:
                return self.target.file(cached["sha256"])
            if answer.status_code == 416:
                self.target.part.unlink(missing_ok=True)
                raise TryAgain("the server refused to resume; starting afresh")
            self._receive(answer, resumable)
        return self.target.finish(_validators(answer))

    def _resumable(self) -> int:
        """Bytes of an earlier attempt that can be resumed."""
        if not self.target.part.is_file() or not _validator(read_json(self.target.part_record)):
            return 0
        return self.target.part.stat().st_size

    def _range(self, start: int) -> dict[str, str]:
        return {"Range": f"bytes={start}-", "If-Range": _validator(read_json(self.target.part_record))}

    def _receive(self, answer: httpx.Response, start: int) -> None:
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if answer.status_code == 206 and not resumed:
            self.target.part.unlink(missing_ok=True)
            raise TryAgain("the server sent another range than was asked for")
        received = start if resumed else 0
        length = answer.headers.get("Content-Length", "")
        total = received + int(length) if length.isdigit() else 0
        self.target.part_record.write_text(json.dumps(_validators(answer)))
        with (
            self.target.part.open("ab" if resumed else "wb") as file,
            track(self.target.name, total=total, unit="B") as step,
        ):
            step(received)
            for block in answer.iter_raw(BLOCK):  # httpx raises if the body is shorter than its Content-Length
                file.write(block)
                step(len(block))


def _validators(answer: httpx.Response) -> dict[str, str]:
    return {"etag": answer.headers.get("ETag", ""), "last_modified": answer.headers.get("Last-Modified", "")}


def _validator(record: dict[str, Any]) -> str:
    """What If-Range may carry: a strong ETag, else the date."""
    etag = usable_validator(record.get("etag"))
    return etag if etag and not etag.startswith("W/") else usable_validator(record.get("last_modified")) or ""


def _conditions(record: dict[str, Any]) -> dict[str, str]:
    pairs = {"If-None-Match": record.get("etag"), "If-Modified-Since": record.get("last_modified")}
    return {name: value for name, recorded in pairs.items() if (value := usable_validator(recorded))}


def _local_names(folder: Path, name: str) -> list[str] | None:
    path = folder / name
    if path.is_dir():
        files = path.rglob("*")
    elif set(name) & PATTERN and not path.is_file():
        files = folder.glob(name)
    else:
        return None
    return [str(file.relative_to(folder)) for file in files if file.is_file()]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) for part in name.split("/"))
