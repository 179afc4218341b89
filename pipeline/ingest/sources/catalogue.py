"""Your own catalogue: items and interactions in CSV, JSON Lines or Parquet, or from SQL, by a mapping of columns."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from pipeline.ingest.cells import present
from pipeline.ingest.files import formats
from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.files.json_lines import as_text, refuse_nested
from pipeline.ingest.files.parquet import Embedded
from pipeline.ingest.item_columns import ItemColumns, compared, with_further_rows
from pipeline.ingest.objects import PATTERN
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource, FileFormat, plain_name


class Catalogue:
    """Two files in one place, or the rows of two queries."""

    relative_images = True

    def __init__(self, config: CatalogueSource, cache: Path) -> None:
        self.queries = None
        if config.sql is not None:
            from pipeline.ingest.sql import Queries  # half a second to import, and only this needs it

            self.queries = Queries(config.sql, cache, config.item_columns.item_id)
            of_files = {"items_format": FileFormat(), "interactions_format": FileFormat()}
            config = config.model_copy(update={"interactions": config.sql.interactions, **of_files})
        self.config = config
        self.raw = RawFiles(config.raw, cache)

    @property
    def image_base(self) -> str | None:
        """The place of the two files."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:
        """Both files exist, or the database can be reached."""
        if not items_only and not self.config.interactions:
            raise UserError(
                "interactions: training needs a file or a query, and none is named. Name it, or make features alone "
                "with `cm3 extract catalogue`."
            )
        if self.queries is not None:
            self.queries.check()
            return
        for role in _roles(items_only):
            name = getattr(self.config, role)
            if not part_names(self.raw, name):
                self.raw.find(f"the {role} file ({role})", [name])

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        if self.queries is not None:
            return self.queries.fetch(_roles(items_only))
        return {role: self._fetched(getattr(self.config, role)) for role in _roles(items_only)}

    def _fetched(self, name: str) -> RawFile:
        names = part_names(self.raw, name)
        if not names:
            return self.raw.fetch(name)
        parts = tuple(map(self.raw.fetch, names))
        told = [json.dumps(columns) if (columns := formats.partition(part)) else "" for part in parts]
        content = "".join(part.sha256 + columns for part, columns in zip(parts, told, strict=True))
        digest = hashlib.sha256(content.encode()).hexdigest()
        path = parts[0].path if self.raw.folder is None else self.raw.folder / name
        return formats.Parts(name.rstrip("/"), path, digest, f"{self.raw.location}/{name}", parts)

    def has_split(self, files: dict[str, RawFile]) -> bool:
        """Whether a column is mapped to `split`, or is called so."""
        if self.config.interaction_columns.split:
            return True
        return "split" in formats.field_names(files["interactions"], self.config.interactions_format)

    def interactions(
        self, files: dict[str, RawFile], quality: Quality, max_bad: float, *, published_split: bool
    ) -> Iterator[pl.DataFrame]:
        """The interactions file by its mapping."""
        file, mapping = files["interactions"], columns_of(self.config.interaction_columns)
        form = self.config.interactions_format
        found = named_columns(mapping, file, ("user_id", "item_id"), "interaction_columns", form)
        names = {ours: theirs[0] for ours, theirs in found.items() if ours != "split" or published_split}
        reading = Reading(
            self.config.missing,
            self.config.time_format,
            self.config.rating_values,
            mapped={ours for ours, theirs in mapping.items() if theirs},
        )
        batches = formats.tables(file, list(names.values()), quality, max_bad, form)
        return raw_interactions(batches, Columns(**names), file, quality, reading)

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """The items file by its mapping."""
        file = files["items"]
        rows = present(self._items(file, quality, max_bad), self.config.missing, file.name, quality)
        return with_further_rows(rows, file.name, quality)

    def _items(self, file: RawFile, quality: Quality, max_bad: float) -> Iterator[RawItem]:
        config, form = self.config, self.config.items_format
        names = named_columns(columns_of(config.item_columns), file, ("item_id",), "item_columns", form)
        separators = {"categories": config.category_separator, "gallery_urls": config.gallery_separator}
        never_shown = frozenset(map(compared, config.never_shown_values))
        columns = ItemColumns(names, separators, frozenset(config.missing), never_shown, file, quality)
        every = [name for theirs in names.values() for name in theirs]
        (id_column,) = names["item_id"]
        pictures = self._embedded(file, [*names.get("image_url", ()), *names.get("gallery_urls", ())])
        records = formats.records(file, every, quality, max_bad, form, pictures=pictures)
        for number, record in enumerate(records, 1):
            refuse_nested(record.get(id_column), id_column, file, f"record {number}")
            if item_id := (as_text(record.get(id_column)) or "").strip():
                yield columns.item(item_id, record)
            else:
                title = next((str(record[name]) for name in names.get("title", ()) if record.get(name)), "untitled")
                quality.add(file.name, "item_without_id", "dropped", 1, (title[:60],))

    def _embedded(self, file: RawFile, names: Sequence[str]) -> Embedded | None:
        """Where pictures lie that are bytes in a column of a Parquet file."""
        if self.raw.folder is not None:
            return Embedded(frozenset(names), self.raw.folder.resolve())
        held = [name for name in names if formats.holds_bytes(file, name, self.config.items_format)]
        if held:
            raise UserError(
                f"{file.name}: column {', '.join(held)} holds pictures, which are read from a local folder only. "
                "Download the files and give their folder as `raw`."
            )
        return None


def _roles(items_only: bool) -> tuple[str, ...]:
    return ("items",) if items_only else ("items", "interactions")


def part_names(raw: RawFiles, name: str) -> list[str]:
    """The files of a folder, as Spark, Dask and DuckDB write them, or of a pattern such as `part-*.parquet`, relative
    to `raw`; none if the name is a file's, or the place cannot be listed.

    Raises:
        UserError: a folder has no such files.
    """
    names = raw.names(name)
    if names is None:
        return []
    if set(name) & PATTERN:
        return names
    end = plain_name(name)[plain_name(name).rfind(".") :]
    if not (parts := [part for part in names if plain_name(part).endswith(end)]):
        raise UserError(
            f"{raw.location}/{name} is a folder, and no file in it ends in {end}. Give a file, or the folder of its "
            "parts."
        )
    return parts


def columns_of(mapping: BaseModel) -> dict[str, tuple[str, ...]]:
    """Our name → the file's names, none where the mapping names none."""
    names = dict(mapping)
    return {ours: (theirs,) if isinstance(theirs, str) else tuple(theirs or ()) for ours, theirs in names.items()}


def named_columns(
    mapping: Mapping[str, tuple[str, ...]],
    file: RawFile,
    required: tuple[str, ...],
    parameter: str,
    form: FileFormat = formats.DEFAULT,
) -> dict[str, tuple[str, ...]]:
    """Our name → the file's, for the columns that are mapped or are called like ours. In JSON Lines, where a field may
    first occur in the last record, an optional field is always looked for.

    Args:
        mapping: our name → the file's; none: it may be called like ours.
        required: our names that the file must have.
        parameter: what a person would change, for the message.

    Raises:
        UserError: a mapped or required column is not in the file; of JSON Lines, in no record of it.
    """
    columns = formats.field_names(file, form)
    named = [name for theirs in mapping.values() for name in theirs]
    if missing := formats.absent(named, file, form):
        hint = formats.separator_hint(
            file, columns, form, f"{'items' if 'user_id' not in mapping else 'interactions'}_format"
        )
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected {', '.join(named)}; found "
            f"{', '.join(columns)}. Name the right columns in `{parameter}` (required: {', '.join(required)}).{hint}"
        )
    needed = [name for ours in required for name in mapping[ours] or (ours,)]
    if (part := formats.part_without(needed, file, form)) is not None:
        raise UserError(
            f"{part.name} has not every column that is needed ({', '.join(needed)}), which other parts of {file.name} "
            f"have. Give a pattern that leaves it out, or write it again ({part.source})."
        )
    may_come_later = formats.format_of(file, form) == "json"
    return {
        ours: theirs or (ours,)
        for ours, theirs in mapping.items()
        if theirs or ours in columns or (may_come_later and ours not in required)
    }
