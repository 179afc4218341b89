"""A file's bytes as blocks of whole lines, packed or not; and a guard against bad lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.ingest.files import streams
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
BAD_GRACE = 10
"""Bad lines that are allowed in any file, however short; of lines that are not UTF-8, none is."""
SAMPLE = 1 << 14
"""Bytes from which an encoding is guessed."""


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


def blocks(
    file: RawFile, *, encoding: str = streams.UTF8, size: int = BLOCK, keep_returns: bool = False
) -> Iterator[Block]:
    """The file's lines in blocks of about `size` bytes. Packed files are recognised by content, not by name; where
    lines end in carriage returns alone, these are turned into line feeds.

    Args:
        keep_returns: leave carriage returns as they are.

    Raises:
        UserError: see `streams.opened` and `streams.Stream.read`; or a line longer than `MAX_LINE`.
    """
    first_line, rest, end = 1, b"", b""
    with streams.opened(file, encoding) as stream, _progress(file) as show:
        while data := stream.read(size):
            show(stream.position)
            end = end or (b"\r" if b"\r" in data[:-1] and b"\n" not in data else b"\n")
            if end == b"\r" and not keep_returns:
                data = data.replace(b"\r", b"\n")
            data = rest + data
            cut = data.rfind(end if keep_returns else b"\n") + 1
            whole, rest = data[:cut], data[cut:]
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
        self.foreign_lines, self.foreign = 0, b""

    def bad(self, line: int, reason: str, *, cut_off: bool = False, foreign: bytes = b"") -> None:
        """Count one line, by its number from 1.

        Args:
            cut_off: the file ends within its record.
            foreign: the line's bytes, if they are not UTF-8.
        """
        if foreign:
            self.foreign_lines += 1
            self.foreign += foreign[: SAMPLE - len(self.foreign)]
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

    def _refuse_encoding(self) -> None:
        guess = streams.likely_encoding(self.foreign)
        raise UserError(
            f"{self.file.name}: {self.foreign_lines:,} of {self.lines:,} lines are not UTF-8, the first bad one being "
            f"{self.first_bad}; they look like {guess}. Give `encoding: {guess}`, or convert the file with `iconv -f "
            f"{guess} -t UTF-8` ({self.file.source})."
        )

    def finish(self) -> None:
        """The file has ended."""
        if self.lines == 0:
            raise UserError(f"{self.file.name} is empty; expected {self.expected}. Check {self.file.source}.")
        if self.foreign_lines > self.max_bad * self.lines:
            self._refuse_encoding()
        if self.bad_lines == self.lines:
            self._refuse()

    def _refuse(self) -> None:
        if self.foreign_lines * 2 > self.bad_lines:
            self._refuse_encoding()
        if self.bad_lines == self.lines:
            raise UserError(
                f"{self.file.name}: not one of the first {self.lines:,} lines is a record, the first being "
                f"{self.first_bad}; expected {self.expected}. Mend the file, or name another ({self.file.source})."
            )
        raise UserError(
            f"{self.file.name}: {self.bad_lines:,} of the first {self.lines:,} lines are not records, the first being "
            f"{self.first_bad}; expected {self.expected}. Check {self.file.source}, or raise `max_bad_share` "
            f"(now {self.max_bad:g})."
        )
