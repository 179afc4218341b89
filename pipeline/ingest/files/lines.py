"""A file's bytes as blocks of whole lines, gzip or not; and a guard against bad lines."""

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from pipeline.progress import track
from schemas.errors import UserError

BLOCK = 8 << 20
"""Bytes read at a time. A reader holds one block and the rows made of it in memory."""
LARGE = 32 << 20
"""Bytes of a file from which on progress is shown."""
MAX_LINE = 16 << 20
"""Bytes; a longer line means that the file does not consist of lines."""
_UTF16 = "is UTF-16 (a byte order mark), expected UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`"
FOREIGN = {
    codecs.BOM_UTF16_LE: _UTF16,
    codecs.BOM_UTF16_BE: _UTF16,
    b"PK\x03\x04": "is a zip archive: unpack it; where it is a workbook (.xlsx), save it as CSV in UTF-8",
}
"""First bytes of files that are not lines of UTF-8 text → what to do."""
BAD_GRACE = 10
"""Bad lines that are allowed in any file, however short."""


@dataclass(frozen=True)
class Block:
    """Whole lines; `first_line` is the number of the first one in the file, from 1."""

    data: bytes
    first_line: int

    @property
    def lines(self) -> int:
        """Number of lines."""
        return self.data.count(b"\n") + (not self.data.endswith(b"\n"))

    def ends_within(self, line: bytes) -> bool:
        """Whether this line, which is no JSON record, is the file's last and the beginning of a record."""
        return line.lstrip().startswith(b"{") and self.data.endswith(line)


def blocks(file: RawFile, *, quoted: bool = False, size: int = BLOCK) -> Iterator[Block]:
    """The file's lines in blocks of about `size` bytes; gzip is recognised by content, not by name.

    Args:
        quoted: a line break between double quotes does not end a line (CSV).

    Raises:
        UserError: damaged or truncated gzip, UTF-16, a zip archive, or a line longer than `MAX_LINE`.
    """
    first_line = 1
    with file.path.open("rb") as raw, _progress(file) as show:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        rest = _read(stream, 4, file)
        for beginning, advice in FOREIGN.items():
            if rest.startswith(beginning):
                raise UserError(f"{file.name} {advice} ({file.source}).")
        rest = rest.removeprefix(codecs.BOM_UTF8)
        while data := _read(stream, size, file):
            show(raw.tell())
            data = rest + data
            end = _last_line_end(data, quoted)
            if len(data) - end > MAX_LINE:  # a stray quote can hide every line end: then quotes are ignored
                end = _last_line_end(data, quoted=False)
            whole, rest = data[:end], data[end:]
            if len(rest) > MAX_LINE:
                number = first_line + whole.count(b"\n")
                raise UserError(
                    f"{file.name}: line {number} is longer than {MAX_LINE >> 20} MiB; expected one record per line. "
                    f"Check {file.source}."
                )
            if whole:
                block = Block(whole, first_line)
                yield block
                first_line += block.lines
    if rest:
        yield Block(rest, first_line)


@contextmanager
def _progress(file: RawFile) -> Iterator[Callable[[int], None]]:
    """Show how far a large file is read: yields a function that takes the position, in bytes on disk."""
    size = file.path.stat().st_size
    if size < LARGE:
        yield lambda _: None
        return
    with track(f"reading {file.name}", total=size, unit="B") as step:
        shown = 0

        def show(position: int) -> None:
            nonlocal shown
            step(position - shown)
            shown = position

        yield show


def _read(stream: BinaryIO, size: int, file: RawFile) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{file.name} is a damaged or truncated gzip file ({error}). Download it again from its source, compare "
            f"its size with the original's, and run again (read from {file.source})."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot read {file.name} from {file.path}: {error}.") from error


def _last_line_end(data: bytes, quoted: bool) -> int:
    """Position after the last line break; with `quoted`, after the last one outside quotes; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, end) if quoted else 0
    while end and quotes % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', before, end)
        end = before
    return end


class LineGuard:
    """Counts the lines of one file that are not records, and refuses the file if there are too many.

    Args:
        max_bad: share of all lines that may be bad.
        expected: what the file should consist of, for errors.

    Attributes:
        lines: lines so far, good and bad, which the reader counts.

    Raises (from `bad`, `check` and `finish`):
        UserError: more than `BAD_GRACE` lines and more than the share `max_bad` are bad, or there is no good line at
            all; or the file is cut off, so that nobody knows how many records are missing.
    """

    def __init__(self, file: RawFile, quality: Quality, max_bad: float, expected: str) -> None:
        self.file, self.quality, self.max_bad, self.expected = file, quality, max_bad, expected
        self.lines = self.bad_lines = 0
        self.first_bad = ""

    def bad(self, line: int, reason: str, *, cut_off: bool = False) -> None:
        """Count one line, by its number from 1; `cut_off`: the file ends within its record."""
        if cut_off:
            raise UserError(
                f"{self.file.name} ends in the middle of a record, in line {line}: it was cut off, or is still being "
                "written. Fetch it again; where nothing is missing after it, delete that line (read from "
                f"{self.file.source})."
            )
        self.bad_lines += 1
        self.first_bad = self.first_bad or f"line {line} ({reason})"
        self.quality.add(self.file.name, "not_a_record", "dropped", 1, (f"line {line}",))

    def check(self) -> None:
        """Refuse the file if too many of the lines so far are bad."""
        if self.bad_lines > max(BAD_GRACE, self.max_bad * self.lines):
            self._refuse()

    def finish(self) -> None:
        """The file has ended."""
        if self.lines == 0:
            raise UserError(f"{self.file.name} is empty; expected {self.expected}. Check {self.file.source}.")
        if self.bad_lines == self.lines:
            self._refuse()

    def _refuse(self) -> None:
        raise UserError(
            f"{self.file.name}: {self.bad_lines:,} of the first {self.lines:,} lines are not records, the first being "
            f"{self.first_bad}; expected {self.expected}. Check {self.file.source}, or raise `max_bad_share` "
            f"(now {self.max_bad:g})."
        )
