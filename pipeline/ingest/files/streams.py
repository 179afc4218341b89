"""A raw file's bytes as UTF-8: unpacked by its content, whatever its name, and recoded from its encoding."""

import bz2
import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline.ingest.raw import RawFile
from schemas.errors import UserError

PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""First bytes → how the file is packed."""
LONGEST_OF_NOTHING = 1024
"""Bytes of a packed file that may hold nothing: it has its own name in it."""
UTF8 = "utf-8"
_UTF16 = (
    "is UTF-16 (a byte order mark), expected UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`, or give `encoding: "
    "utf-16`"
)
_PAGE = "is a web page (HTML), such as a login or an error: download the file itself"
_PICKLE = "is a Python pickle, which is never opened: write it as Parquet or JSON Lines"
FOREIGN = {
    codecs.BOM_UTF16_LE: _UTF16,
    codecs.BOM_UTF16_BE: _UTF16,
    b"PAR1": "is a Parquet file: give it a name that ends in .parquet",
    b"%PDF": "is a PDF",
    b"\xd0\xcf\x11\xe0": "is an old workbook (.xls): save it as CSV in UTF-8",
    b"SQLite format 3": "is an SQLite database: export its tables as CSV",
    b"PK\x05\x06": "is an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it",
    b"Rar!": "is a RAR archive: unpack it",
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
}
"""First bytes of files that hold no rows → what they are and what to do."""
MARKUP = {
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<?xml": "is XML, which is not read: export it as CSV, JSON Lines or Parquet",
}
"""The same for text, in lower case and without blanks before it."""
_SAMPLE = 4096
"""Bytes that are looked at to tell UTF-16 without a byte order mark: text in UTF-8 has no zero bytes."""


@dataclass
class Stream:
    """Bytes of UTF-8 text, without a byte order mark.

    Attributes:
        file: where they come from.
        packed: bytes on disk, of which `position` says how far they are read.
    """

    file: RawFile
    packed: BinaryIO
    content: BinaryIO
    encoding: str
    beginning: bytes = b""

    def __post_init__(self) -> None:
        self._decoder = None if self.encoding == UTF8 else codecs.getincrementaldecoder(self.encoding)()

    @property
    def position(self) -> int:
        """Bytes on disk that were read."""
        return self.packed.tell()

    def read(self, size: int) -> bytes:
        """About `size` bytes; none at the end.

        Raises:
            UserError: the file is damaged or truncated, or is not in its encoding.
        """
        if self._decoder is None:
            data, self.beginning = self.beginning, b""
            return data + self._raw(size - len(data)) if len(data) < size else data
        while raw := self._raw(size):
            if text := self._decoded(raw):
                return text
        return self._decoded(b"", final=True)

    def _decoded(self, raw: bytes, *, final: bool = False) -> bytes:
        assert self._decoder is not None
        raw, self.beginning = self.beginning + raw, b""
        try:
            return self._decoder.decode(raw, final).removeprefix("\ufeff").encode()
        except UnicodeError as error:
            raise UserError(
                f"{self.file.name} is not {self.encoding}: {error}. Give its `encoding`, or convert it to UTF-8 "
                f"({self.file.source})."
            ) from error

    def _raw(self, size: int) -> bytes:
        try:
            return self.content.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if self.content is not self.packed:
                raise self._damaged(error) from error
            raise UserError(f"Cannot read {self.file.name} from {self.file.path}: {error}.") from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.file.name} is a damaged or truncated {packing(self.packed)} file ({error}). Download it again from "
            f"its source, compare its size with the original's, and run again (read from {self.file.source})."
        )


@contextmanager
def opened(file: RawFile, encoding: str = UTF8) -> Iterator[Stream]:
    """The file's text, until the block ends.

    Raises:
        UserError: another kind of file, UTF-16 without being told, or an archive of several files.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(file.path.open("rb"))
        except OSError as error:
            raise UserError(f"Cannot read {file.name} from {file.path}: {error}.") from error
        stream = Stream(file, raw, stack.enter_context(_unpacked(raw, file)), encoding)
        stream.beginning = beginning = stream._raw(_SAMPLE)
        if encoding == UTF8:
            if advice := foreign(beginning):
                raise UserError(f"{file.name} {advice} ({file.source}).")
            if (guess := _utf16(beginning)) is not None:
                raise UserError(
                    f"{file.name} is {guess.upper()} (every other byte is zero), expected UTF-8: give `encoding: "
                    f"{guess}`, or convert it with `iconv -f {guess.upper()} -t UTF-8` ({file.source})."
                )
            stream.beginning = beginning.removeprefix(codecs.BOM_UTF8)
        yield stream


def is_empty(file: RawFile) -> bool:
    """Whether there is not one byte in it, packed or not, but for a byte order mark."""
    if file.path.stat().st_size > LONGEST_OF_NOTHING:
        return False
    with opened(file, "latin-1") as stream:
        return stream.beginning in (b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def foreign(beginning: bytes) -> str:
    """What a file is that holds no rows, and what to do, by its first bytes; empty: it may hold some."""
    plain = beginning.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    advice = (advice for first, advice in FOREIGN.items() if beginning.startswith(first))
    return next(advice, "") or next((advice for first, advice in MARKUP.items() if plain.startswith(first)), "")


def packing(raw: BinaryIO) -> str:
    """How a file is packed, by its first bytes; empty: it is not."""
    place = raw.tell()
    raw.seek(0)
    first = raw.read(4)
    raw.seek(place)
    return next((name for magic, name in PACKED.items() if first.startswith(magic)), "")


@contextmanager
def _unpacked(raw: BinaryIO, file: RawFile) -> Iterator[BinaryIO]:
    match packing(raw):
        case "gzip":
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        case "bzip2":
            yield cast(BinaryIO, bz2.BZ2File(raw))
        case "zstd":
            yield cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
        case "zip":
            with _only_member(raw, file) as member:
                yield member
        case _:
            yield raw


@contextmanager
def _only_member(raw: BinaryIO, file: RawFile) -> Iterator[BinaryIO]:
    try:
        with zipfile.ZipFile(raw) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if "[Content_Types].xml" in names:
                raise UserError(f"{file.name} is a workbook (.xlsx): save it as CSV in UTF-8 ({file.source}).")
            if len(names) != 1:
                raise UserError(
                    f"{file.name} is a zip archive of {len(names)} files, expected one: unpack it ({file.source})."
                )
            with archive.open(names[0]) as member:
                yield cast(BinaryIO, member)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, with a password, or too new
        raise UserError(f"{file.name} cannot be unpacked ({error}): unpack it yourself ({file.source}).") from error


def _utf16(beginning: bytes) -> str | None:
    """utf-16-le or utf-16-be, if most bytes of one parity are zero."""
    half = len(beginning) // 2
    even, odd = beginning[0::2].count(0), beginning[1::2].count(0)
    if half < 2 or max(even, odd) < 0.6 * half or min(even, odd) > 0.1 * half:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def likely_encoding(sample: bytes) -> str:
    """The encoding that bytes, which are not UTF-8, are likely in."""
    import charset_normalizer  # only for an error

    common = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "gb18030", "big5", "euc_kr", "utf_8"]
    best = charset_normalizer.from_bytes(sample, cp_isolation=common).best()
    if best is None or best.encoding == "utf_8" or sample.decode("cp1252", "replace") == str(best):
        return "cp1252"  # the most common of those in which the sample reads the same
    return best.encoding
