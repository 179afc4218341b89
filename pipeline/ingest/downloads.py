"""What a download leaves on this machine: a part file, with which the next attempt goes on; then the file and its
record."""

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import locks
from pipeline.store import digest
from schemas.errors import UserError

LONGEST_NAME = 200
"""Bytes of a file name to which ends such as `.part.record` can still be added."""


@dataclass(frozen=True)
class RawFile:
    """One raw file on this machine.

    Attributes:
        name: the distribution's own, which may have folders.
        sha256: of its bytes, hex.
        source: path or URL that it came from.
    """

    name: str
    path: Path
    sha256: str
    source: str


class TryAgain(Exception):  # noqa: N818 - a signal to stamina, never seen outside
    """A failure that may pass: the next attempt resumes."""


class Target:
    """Where one raw file is kept. While it is downloaded, `<name>.part` and `<name>.part.record` (what identifies the
    file at its place) lie beside it; afterwards `<name>.record` (the same, size and SHA-256) does."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.path = folder / name
        if len(self.path.name.encode()) > LONGEST_NAME:
            self.path = self.path.with_name(digest(self.path.name))
        self.part = self._beside("part")
        self.part_record = self._beside("part.record")

    def locked(self) -> AbstractContextManager[None]:
        """Hold it: two data sets may read the same file at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return locks.held(self._beside("lock"))

    def cached(self) -> dict[str, Any] | None:
        """The record of a finished download; None if there is none or its bytes have changed."""
        record = read_json(self._beside("record"))
        if not self.path.is_file() or self.path.stat().st_size != record.get("size"):
            return None
        return record if sha256(self.path, self.name) == record.get("sha256") else None

    def file(self, sha: str) -> RawFile:
        """The file, once it is whole."""
        return RawFile(self.name, self.path, sha, self.url)

    def finish(self, identity: dict[str, str]) -> RawFile:
        """Make the whole part file the file."""
        sha = sha256(self.part, self.name)
        record = {**identity, "sha256": sha, "size": self.part.stat().st_size, "url": self.url}
        self.part.replace(self.path)
        self._beside("record").write_text(json.dumps(record))
        self.part_record.unlink(missing_ok=True)
        return self.file(sha)

    def _beside(self, end: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{end}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is absent or damaged."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256(path: Path, name: str) -> str:
    """SHA-256 (hex) of a raw file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Cannot read {name}: {error}.") from error
