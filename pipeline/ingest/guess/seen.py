"""The files of rows in a folder: of each its format, its columns, and the first rows."""

import contextlib
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.ingest.files import delimited, formats, streams
from pipeline.ingest.prices import price
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.catalogue import part_names
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import SUFFIXES, FileFormat, plain_name

DEPTH = 4
"""Folders within folders that are looked into, the outermost included."""
MOST_FILES = 200
ROWS = 200
"""Rows of a file that are looked at."""
BYTES = 1 << 17
"""Bytes of a text file that are looked at."""
SEPARATORS = (",", "\t", ";", "|", "::")
NO_ROWS = frozenset({"dataset_info.json", "dataset_dict.json", "state.json", "package.json"})
"""Files beside the rows, by their usual names."""


@dataclass(frozen=True)
class Seen:
    """One file, a folder of parts, or a pattern.

    Attributes:
        name: relative to the folder, as `items` or `interactions` of a catalogue.
        form: what the name does not say; the header of a file without one is `column_1`, `column_2`, …
        columns: names, in JSON and Parquet also paths into nested fields.
        rows: the first ones, by name and path.
        bytes: of all its parts.
        repeated: names of several columns each, which cannot be read.
    """

    name: str
    form: FileFormat
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    bytes: int
    repeated: tuple[str, ...] = ()

    def values(self, column: str) -> list[Any]:
        """What the first rows hold in a column, without what is empty."""
        return [row[column] for row in self.rows if row.get(column) not in (None, "", "[]", "{}", [], {})]


@dataclass
class Folder:
    """Files of rows, the largest first; pictures by folder; and files that cannot be read, with the reason."""

    path: Path
    files: list[Seen] = field(default_factory=list)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def look(path: Path) -> Folder:
    """Look at the first rows of every file that a catalogue could read.

    Raises:
        UserError: it is no folder.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder. Give the folder that holds your items and interactions.")
    folder = Folder(path)
    units: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in _names(path):
        parent, _, base = name.rpartition("/")
        if base.lower().endswith(PICTURES):
            folder.pictures.setdefault(parent, []).append(base)
        elif plain_name(base).endswith(SUFFIXES) and base not in NO_ROWS:
            found = re.match(r"(\D*)\d.*?((?:\.[A-Za-z]+){1,2})$", base)
            units[parent, found[1] if found else base, found[2] if found else ""].append(name)
    for (parent, prefix, suffix), names in islice(units.items(), MOST_FILES):
        pattern = f"{parent}/{prefix}*{suffix}".lstrip("/")
        alike = len(names) > 1 and len(list(path.glob(pattern))) == len(names)
        ends = [_seen(folder, name) for name in (names[0], names[-1])] if alike else []
        one = bool(ends) and len({file.columns if file else None for file in ends}) == 1
        seen = [_seen(folder, name) for name in ([pattern] if one else names[:MOST_FILES])]
        folder.files.extend(file for file in seen if file)
    folder.files.sort(key=lambda file: -file.bytes)
    return folder


def raw_file(folder: Path, name: str) -> RawFile:
    """A file, or all parts of a pattern, without digests."""
    names = part_names(RawFiles(str(folder), folder), name)
    files = [RawFile(part, folder / part, "", str(folder / part)) for part in names or [name]]
    return formats.Parts(name, folder / name, "", str(folder / name), tuple(files)) if names else files[0]


def _names(path: Path) -> Iterator[str]:
    """Files that are not hidden, by their paths within the folder; folders of parts, such as items.parquet, as one."""
    within = sorted(path.rglob("*"))
    units = [p for p in within if p.is_dir() and p.name.lower().endswith(SUFFIXES)]
    for file in within:
        relative = file.relative_to(path)
        hidden = any(part.startswith((".", "_")) for part in relative.parts)
        if hidden or len(relative.parts) > DEPTH or any(unit in file.parents for unit in units):
            continue
        if file.is_file() or file in units:
            yield relative.as_posix()


def _seen(folder: Folder, name: str) -> Seen | None:
    """The file with its first rows; None, with the reason among the unread, if it has none."""
    try:
        file = raw_file(folder.path, name)
        size = sum(part.path.stat().st_size for part in formats.parts(file))
        form, pictures, repeated = FileFormat(), list[str](), list[str]()
        match formats.format_of(file):
            case "json":
                records: Iterable[dict[str, Any]] = formats.records(file, (), Quality(), 1.0)
            case "parquet":
                names = formats.field_names(file)
                pictures = [name for name in names if formats.holds_bytes(file, name)]
                records = formats.records(file, [name for name in names if name not in pictures], Quality(), 1.0)
            case separator:
                first = formats.parts(file)[0]
                told = formats.partition(first) if isinstance(file, formats.Parts) else {}
                form, records = _delimited(first, separator)
                names = formats.field_names(file, form)
                repeated = [name for name, count in Counter(names).items() if count > 1]
                named = [{n: value for n, value in record.items() if n and n not in repeated} for record in records]
                records = [told | record for record in named]
        rows = tuple(_flat(record) for record in islice(records, ROWS))
    except UserError as error:
        folder.unread[name] = str(error)
        return None
    columns = tuple(dict.fromkeys([*(name for row in rows for name in row), *pictures]))
    rows = tuple(row | dict.fromkeys(pictures, HELD) for row in rows)
    return Seen(name, form, columns, rows, size, tuple(repeated)) if rows else None


HELD = "(a picture's bytes)"
"""Stands in a row for the bytes of a picture."""


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the paths into its nested fields: `images.src` of a list of images with addresses."""
    flat = dict(record)
    for name, value in record.items():
        inner = value if isinstance(value, dict) else value[0] if isinstance(value, list) and value else None
        if isinstance(inner, dict):
            flat |= {f"{name}.{key}": inside for key, inside in inner.items() if not isinstance(inside, dict | list)}
    return flat


def _delimited(file: RawFile, usual: str) -> tuple[FileFormat, list[dict[str, Any]]]:
    """How a file of rows is written, and its first rows."""
    encoding, text = _text(file)
    lines = text.splitlines(keepends=True)
    tables = {separator: _rows(lines, separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda one: (*_regularity(tables[one]), one == usual))
    rows = tables[separator]
    if not rows:
        raise UserError(f"{file.name}: no rows were found in it.")
    header = [] if _has_header(rows) else [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
    is_atomic = plain_name(file.name).endswith(delimited.ATOMIC)
    names = header or [delimited.TYPED.sub("", name) if is_atomic else name for name in rows[0]]
    form = FileFormat(encoding=encoding, separator=None if separator == usual else separator, header=tuple(header))
    return form, [dict(zip(names, row, strict=False)) for row in (rows if header else rows[1:])]


def _text(file: RawFile) -> tuple[str, str]:
    """The encoding, and the first whole lines."""
    try:
        with streams.opened(file) as stream:
            data = stream.read(BYTES)
    except UserError:
        for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
            with contextlib.suppress(UserError), streams.opened(file, encoding) as stream:
                text = stream.read(BYTES).decode()
                if "\n" in text and "\0" not in text:
                    return encoding, text[: text.rfind("\n") + 1]
        raise
    data = data[: data.rfind(b"\n") + 1] or data
    try:
        return streams.UTF8, data.decode()
    except UnicodeDecodeError:
        encoding = streams.likely_encoding(data)
        return encoding, data.decode(encoding, "replace")


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    if len(separator) > 1:
        return [line.rstrip("\r\n").split(separator) for line in lines[:ROWS] if line.strip()]
    rows = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator)
    try:
        return [[cell.strip() for cell in row] for row in islice(rows, ROWS) if any(row)]
    except csv.Error:
        return []


def _regularity(rows: list[list[str]]) -> tuple[float, int]:
    """How many rows have the usual number of fields, none if that is one; and that number."""
    if not rows:
        return 0.0, 0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return (round(count / len(rows), 1), width) if width > 1 else (0.0, 0)


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: words, none of which is a number or an address. They are distinct, over
    values of which some are numbers or addresses, or that are longer; or one is a usual name; or only the first column
    has none, as pandas writes its index."""
    first, rest = rows[0], rows[1:]
    names = [cell for cell in first if cell]
    if not names or any(map(_is_value, names)):
        return False
    if any(re.fullmatch(r"\D*(id|(name|title|user|item|sku)\D*)", name.lower()) for name in names):
        return True
    columns = list(zip(*(row for row in rest if len(row) == len(first)), strict=True))
    if len(set(names)) < len(names):
        return False
    if len(names) < len(first):
        return first == ["", *names] and bool(columns) and all(columns[0])
    return not columns or any(
        any(map(_is_value, column)) or sum(map(len, column)) > 1.5 * len(name) * len(column)
        for name, column in zip(first, columns, strict=True)
    )


def _is_value(cell: str) -> bool:
    """Whether a cell is rather a value than a name."""
    return bool(price(cell) is not None or "://" in cell or re.fullmatch(r"[-\d.,:/ T]+Z?", cell) or len(cell) > 60)
