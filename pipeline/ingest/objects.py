"""Raw files in an object store, through fsspec: s3://, and gs://, abfs:// with their drivers installed."""

import errno
import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from pipeline.filesystem import open_filesystem
from pipeline.ingest.downloads import RawFile, Target, TryAgain, read_json
from pipeline.progress import track
from schemas.errors import UserError

BLOCK = 8 << 20
"""Bytes asked for at once: what a broken connection costs."""
IDENTITY = ("ETag", "etag", "generation", "LastModified", "last_modified", "updated")
"""What the drivers call that which changes with the bytes of an object."""
PATTERN = frozenset("*?[")
"""Characters that make a name a pattern."""


class Objects:
    """The objects below `location`, e.g. `s3://bucket/prefix`. What may pass is raised as `TryAgain`.

    Args:
        field: parameter that a person would change, for messages.
    """

    def __init__(self, location: str, field: str) -> None:
        self.location, self.field = location, field
        try:
            fs, root = open_filesystem(location)
        except UserError as error:
            raise UserError(f"{field}: {error.__cause__}. Install the driver, or download the files.") from error
        self.fs, self.root = fs, root.rstrip("/")

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with self._sorted_out():
            return self._info(name) is not None

    def names(self, name: str) -> list[str] | None:
        """The objects below a folder, or that a pattern names; None if it is no folder and no pattern."""
        with self._sorted_out():
            if self._info(name) is not None:
                return None
            if set(name) & PATTERN:
                return self._relative(self.fs.glob(f"{glob.escape(self.root)}/{name}", detail=True))
            return self._relative(self.fs.find(self._path(name) + "/", detail=True)) or None

    def listing(self) -> list[str]:
        """What lies directly below the location."""
        with self._sorted_out():
            try:
                entries = self.fs.ls(self.root, detail=False)
            except FileNotFoundError:
                return []
            names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != self.root}
            return sorted(names)

    def download(self, target: Target) -> RawFile:
        """One attempt: go on with what an earlier one left, unless the object has changed since.

        Raises:
            UserError: there is no such object, or it may not be read.
        """
        with self._sorted_out():
            info = self._info(target.name)
            if info is None:
                raise UserError(f"{target.url} does not exist. Check the name and `{self.field}`.")
            identity, size = _identity(info), int(info["size"])
            cached = target.cached()
            if cached is not None and identity.items() <= cached.items() and cached["size"] == size:
                return target.file(cached["sha256"])
            if not target.part.is_file() or read_json(target.part_record) != identity:
                target.part.write_bytes(b"")
            target.part_record.write_text(json.dumps(identity))
            self._receive(target, size)
            if _identity(self._info(target.name) or {}) != identity:
                target.part.unlink()
                raise TryAgain("it changed while it was read")
        return target.finish(identity)

    def _receive(self, target: Target, size: int) -> None:
        with target.part.open("ab") as file, track(target.name, total=size, unit="B") as step:
            step(file.tell())
            while (start := file.tell()) < size:
                end = min(start + BLOCK, size)
                block = self.fs.cat_file(self._path(target.name), start=start, end=end)
                if len(block) != end - start:
                    raise TryAgain(f"{len(block):,} bytes came where {end - start:,} were asked for")
                file.write(block)
                step(len(block))

    def _info(self, name: str) -> dict[str, Any] | None:
        """What the store says of an object; None if there is none, or a folder."""
        try:
            info: dict[str, Any] = self.fs.info(self._path(name), refresh=True)
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name.rstrip('/')}"

    def _relative(self, entries: dict[str, dict[str, Any]]) -> list[str]:
        """Objects, without those that stand for a folder, as consoles make them."""
        files = (path for path, info in entries.items() if info["type"] == "file" and not path.endswith("/"))
        return [path.removeprefix(f"{self.root}/") for path in files]

    @contextmanager
    def _sorted_out(self) -> Iterator[None]:
        """Sort the drivers' errors into those that may pass and those that a person must mend."""
        refused, failed = _driver_errors()
        try:
            yield
        except refused as error:
            if getattr(error, "errno", None):
                raise  # of this machine's own disk
            raise UserError(
                f"{self.field}: {self.location} may not be read ({_line(error)}). Check the keys in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and what they may do."
            ) from error
        except failed as error:
            raise TryAgain(_line(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
                raise  # of this machine's own disk
            raise TryAgain(_line(error)) from error


def _driver_errors() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What drivers raise who may not read; and what else, besides operating systems' errors. S3's may be absent."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError:
        return (PermissionError,), (aiohttp.ClientError,)
    return (PermissionError, NoCredentialsError), (aiohttp.ClientError, BotoCoreError, ClientError)


def _identity(info: dict[str, Any]) -> dict[str, str]:
    return {name: str(info[name]) for name in IDENTITY if info.get(name)}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
