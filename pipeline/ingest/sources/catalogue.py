"""Your own catalogue: items and interactions in CSV, JSON Lines or Parquet, by a mapping of columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from pipeline.ingest.files import json_lines
from pipeline.ingest.files.delimited import header_of, tables
from pipeline.ingest.files.interaction_columns import Columns, raw_interactions
from pipeline.ingest.files.json_lines import as_text, nested
from pipeline.ingest.raw import Raw, RawFile
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from pipeline.store import READ_BYTES
from schemas.errors import UserError
from schemas.sources import CatalogueSource, ItemColumns

ITEM_FIELDS = tuple(ItemColumns.model_fields)
TEXTS = {"title": 0, "description": 0, "brand": 0, "image_url": 0, "categories": 1, "gallery_urls": 1}
"""Field → 0: one text, 1: a list of them; a deeper list or an object in their place is counted and taken for none."""
BATCH_BYTES, BATCH_ROWS = 64 << 20, (256, 65_536)
"""Of a Parquet file read at a time: bytes as they would be uncompressed, and the fewest and most rows."""
PEEKED = 1000
"""Rows of a JSON Lines file looked at to learn which fields its records have."""


class Catalogue:
    """Two files in one place."""

    relative_images = True

    def __init__(self, config: CatalogueSource, cache: Path) -> None:
        self.config = config
        self.raw = Raw(config.raw, cache)
        self.has_split = False

    @property
    def image_base(self) -> str | None:
        """The place of the two files."""
        return self.raw.base

    def check(self) -> None:
        """Both files exist."""
        for role in ("items", "interactions"):
            self.raw.find(f"the {role} file ({role})", [getattr(self.config, role)])

    def fetch(self) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        files = {role: self.raw.fetch(getattr(self.config, role)) for role in ("items", "interactions")}
        self.has_split = bool(self.config.interaction_columns.split) or "split" in field_names(files["interactions"])
        return files

    def interactions(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[pl.DataFrame]:
        """The interactions file by its mapping."""
        file, mapping = files["interactions"], self.config.interaction_columns
        present = field_names(file)
        named = chosen(mapping.model_dump(), present, file, ("user_id", "item_id"), "interaction_columns")
        if not self.has_split:
            named.pop("split", None)
        columns = Columns(**named)
        match format_of(file):
            case "parquet":
                batches = parquet(file, list(named.values()))
            case "json":
                batches = json_lines.columns(file, columns.present().values(), quality, max_bad)
            case separator:
                batches = tables(file, quality, max_bad, separator=separator)
        return raw_interactions(batches, columns, file, quality)

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """The items file by its mapping."""
        file = files["items"]
        present = field_names(file)
        named = chosen(dict(self.config.item_columns), present, file, ("item_id",), "item_columns")
        for record in rows(file, list(named.values()), quality, max_bad):
            fields = {ours: record.get(theirs) for ours, theirs in named.items()}
            if item_id := (as_text(fields.pop("item_id")) or "").strip():
                for name, depth in TEXTS.items():
                    if nested(fields.get(name), depth):
                        quality.add(file.name, f"{name}_unreadable", "repaired", 1, (item_id,))
                yield self._item(item_id, fields)
            else:
                title = str(fields.get("title") or "untitled")[:60]
                quality.add(file.name, "item_without_id", "dropped", 1, (title,))

    def _item(self, item_id: str, fields: dict[str, Any]) -> RawItem:
        return RawItem(
            item_id,
            title=as_text(fields.get("title")) or "",
            description=as_text(fields.get("description")) or "",
            brand=as_text(fields.get("brand")) or "",
            categories=texts(fields.get("categories"), self.config.category_separator),
            price=fields.get("price"),
            image_url=as_text(fields.get("image_url")) or "",
            gallery_urls=texts(fields.get("gallery_urls"), self.config.gallery_separator),
        )


def texts(value: Any, separator: str) -> list[str]:
    """The texts of a list, or of one text that holds several."""
    values = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in map(as_text, values) if text]


def chosen(
    mapping: dict[str, str | None], present: list[str], file: RawFile, required: tuple[str, ...], field: str
) -> dict[str, str]:
    """Our name → the file's, for columns that are named or happen to be called like ours; in JSON Lines, where a field
    may first occur in the last record, that is looked at in each.

    Raises:
        UserError: a named or required column is not in the file; of JSON Lines, in no record of it.
    """
    anywhere = format_of(file) == "json"
    missing = _nowhere([name for name in mapping.values() if name and name not in present], file)
    if missing:
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected "
            f"{', '.join(filter(None, mapping.values()))}; found {', '.join(present)}. Name the right columns in "
            f"`{field}` (required: {', '.join(required)})."
        )
    return {
        ours: name or ours
        for ours, name in mapping.items()
        if name or ours in present or (anywhere and ours not in required)
    }


def _nowhere(names: list[str], file: RawFile) -> list[str]:
    """Those of the names, absent from the columns or first records, that no later record of JSON Lines has either."""
    absent = dict.fromkeys(names)
    if absent and format_of(file) == "json":
        for record in json_lines.records(file, Quality(), 1.0):
            for name in absent.keys() & record.keys():
                del absent[name]
            if not absent:
                break
    return list(absent)


def format_of(file: RawFile) -> str:
    """`parquet`, `json`, or the separator of a delimited file, by the name's suffix."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    return {".parquet": "parquet", ".csv": ",", ".tsv": "\t"}.get(suffix, "json")


def field_names(file: RawFile) -> list[str]:
    """Columns of the file; of JSON Lines those of the first records."""
    match format_of(file):
        case "parquet":
            return list(_parquet_file(file).schema_arrow.names)
        case "json":
            names: dict[str, None] = {}
            for number, record in enumerate(json_lines.records(file, Quality(), 1.0)):
                names.update(dict.fromkeys(record))
                if number >= PEEKED:
                    break
            return list(names)
        case separator:
            return header_of(file, separator)


def rows(file: RawFile, names: list[str], quality: Quality, max_bad: float) -> Iterator[dict[str, Any]]:
    """Records of a file in any of the formats."""
    match format_of(file):
        case "json":
            yield from json_lines.records(file, quality, max_bad)
        case "parquet":
            for frame in parquet(file, names):
                yield from frame.iter_rows(named=True)
        case separator:
            for frame in tables(file, quality, max_bad, separator=separator):
                yield from frame.iter_rows(named=True)


def parquet(file: RawFile, names: list[str]) -> Iterator[pl.DataFrame]:
    """Some columns of a Parquet file, a batch at a time; texts stored as bytes as texts, and so decimals, which may be
    ids: a float would lose their last digits, and polars knows none of 256 bits."""
    try:
        parquet_file = _parquet_file(file)
        for batch in parquet_file.iter_batches(_batch_rows(parquet_file.metadata, names), columns=names):
            columns = [each.cast(pa.string()) if pa.types.is_decimal(each.type) else each for each in batch.columns]
            frame = pl.from_arrow(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
            assert isinstance(frame, pl.DataFrame)
            yield frame.with_columns(cs.binary().cast(pl.String))
    except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file.name} is a damaged Parquet file: {error}. Write it again ({file.source}).") from error


def _batch_rows(metadata: pq.FileMetaData, names: list[str]) -> int:
    """So many rows that `BATCH_BYTES` hold them in the row group with the longest ones."""
    fewest, most = BATCH_ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names)
        most = min(most, BATCH_BYTES * group.num_rows // max(size, 1))
    return max(fewest, most)


def _parquet_file(file: RawFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path, pre_buffer=False, buffer_size=READ_BYTES)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file.name} is not a Parquet file: {error}. Check {file.source}.") from error
