"""Your own catalogue: items and interactions in CSV, JSON Lines or Parquet, by a mapping of columns."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.ingest.cells import LIKE_LISTS, listed, present
from pipeline.ingest.files import formats
from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.files.json_lines import as_text, nested, refuse_nested
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource, FileFormat, plain_name

DEPTHS = {"title": 0, "description": 1, "brand": 0, "image_url": 1, "categories": 1, "gallery_urls": 1}
"""Field → 0: one text, 1: a list of texts. A deeper list or an object in its place is counted and left out."""


class Catalogue:
    """Two files in one place."""

    relative_images = True

    def __init__(self, config: CatalogueSource, cache: Path) -> None:
        self.config = config
        self.raw = RawFiles(config.raw, cache)

    @property
    def image_base(self) -> str | None:
        """The place of the two files."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:
        """Both files exist."""
        if not items_only and not self.config.interactions:
            raise UserError(
                "interactions: training needs a file, and none is named. Name it, or make features alone with "
                "`cm3 extract catalogue`."
            )
        for role in _roles(items_only):
            name = getattr(self.config, role)
            if not part_names(self.raw, name):
                self.raw.find(f"the {role} file ({role})", [name])

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        return {role: self._fetched(getattr(self.config, role)) for role in _roles(items_only)}

    def _fetched(self, name: str) -> RawFile:
        names = part_names(self.raw, name)
        if not names:
            return self.raw.fetch(name)
        parts = tuple(map(self.raw.fetch, names))
        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
        assert self.raw.folder is not None
        path = self.raw.folder / name
        return formats.Parts(name.rstrip("/"), path, digest, str(path), parts)

    def has_split(self, files: dict[str, RawFile]) -> bool:
        """Whether a column is mapped to `split`, or is called so."""
        if self.config.interaction_columns.split:
            return True
        return "split" in formats.field_names(files["interactions"], self.config.interactions_format)

    def interactions(
        self, files: dict[str, RawFile], quality: Quality, max_bad: float, *, published_split: bool
    ) -> Iterator[pl.DataFrame]:
        """The interactions file by its mapping."""
        file, mapping = files["interactions"], self.config.interaction_columns.model_dump()
        form = self.config.interactions_format
        names = named_columns(mapping, file, ("user_id", "item_id"), "interaction_columns", form)
        if not published_split:
            names.pop("split", None)
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
        return present(self._items(files["items"], quality, max_bad), self.config.missing, files["items"].name, quality)

    def _items(self, file: RawFile, quality: Quality, max_bad: float) -> Iterator[RawItem]:
        form = self.config.items_format
        names = named_columns(dict(self.config.item_columns), file, ("item_id",), "item_columns", form)
        for number, record in enumerate(formats.records(file, list(names.values()), quality, max_bad, form), 1):
            fields = {ours: record.get(theirs) for ours, theirs in names.items()}
            refuse_nested(fields["item_id"], names["item_id"], file, f"record {number}")
            if item_id := (as_text(fields.pop("item_id")) or "").strip():
                yield self._item(item_id, self._read(item_id, fields, file, quality))
            else:
                title = str(fields.get("title") or "untitled")[:60]
                quality.add(file.name, "item_without_id", "dropped", 1, (title,))

    def _read(self, item_id: str, fields: dict[str, Any], file: RawFile, quality: Quality) -> dict[str, Any]:
        """The fields, of which lists written as text are lists; what cannot be read is left out. Both are counted."""
        for name, depth in DEPTHS.items():
            value = fields.get(name)
            if value is None or (isinstance(value, str) and not value.startswith(LIKE_LISTS)):
                continue
            if isinstance(value, str):
                try:
                    value = listed(value, quoted=name not in ("categories", "gallery_urls"))
                except ValueError:
                    quality.add(file.name, f"{name}_unreadable", "repaired", 1, (item_id,))
                    fields[name] = None
                    continue
                if value is None:
                    continue
                quality.add(file.name, f"{name}_list_in_text", "repaired", 1, (item_id,))
                fields[name] = value
                depth = 1
            if nested(value, depth):
                quality.add(file.name, f"{name}_unreadable", "repaired", 1, (item_id,))
                fields[name] = None
        return fields

    def _item(self, item_id: str, fields: dict[str, Any]) -> RawItem:
        pictures = texts(fields.get("gallery_urls"), self.config.gallery_separator)
        image = fields.get("image_url")
        if isinstance(image, list):
            first, *more = [*texts(image, self.config.gallery_separator), ""]
            image, pictures = first, [*filter(None, more), *pictures]
        return RawItem(
            item_id,
            title=joined(fields.get("title")),
            description=joined(fields.get("description")),
            brand=joined(fields.get("brand")),
            categories=texts(fields.get("categories"), self.config.category_separator),
            price=fields.get("price"),
            image_url=as_text(image) or "",
            gallery_urls=pictures,
        )


def _roles(items_only: bool) -> tuple[str, ...]:
    return ("items",) if items_only else ("items", "interactions")


def part_names(raw: RawFiles, name: str) -> list[str]:
    """The files of a folder, as Spark, Dask and DuckDB write them, or of a pattern such as `part-*.parquet`, relative
    to the local folder `raw`; none if the name is a file's, or the folder is not local.

    Raises:
        UserError: a folder has no such files.
    """
    if raw.folder is None:
        return []
    path = raw.folder / name
    if path.is_dir():
        end = plain_name(name)[plain_name(name).rfind(".") :]
        files = [file for file in path.rglob("*") if plain_name(file.name).endswith(end)]
    elif set(name) & set("*?["):
        files = [] if path.is_file() else list(raw.folder.glob(name))
    else:
        return []
    inside = [file.relative_to(raw.folder) for file in files if file.is_file()]
    names = sorted(str(file) for file in inside if not any(part.startswith(("_", ".")) for part in file.parts))
    if not names and path.is_dir():
        raise UserError(
            f"{path} is a folder, and no file in it ends in {end}. Give a file, or the folder of its parts."
        )
    return names


def joined(value: Any) -> str:
    """One text; of a list that was written as text, its texts with blanks between."""
    return " ".join(texts(value, "")) if isinstance(value, list) else as_text(value) or ""


def texts(value: Any, separator: str) -> list[str]:
    """The texts of a list, or of one text that holds several."""
    values = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in map(as_text, values) if text]


def named_columns(
    mapping: dict[str, str | None],
    file: RawFile,
    required: tuple[str, ...],
    parameter: str,
    form: FileFormat = formats.DEFAULT,
) -> dict[str, str]:
    """Our name → the file's, for the columns that are mapped or are called like ours. In JSON Lines, where a field may
    first occur in the last record, an optional field is always looked for.

    Args:
        required: our names that the file must have.
        parameter: what a person would change, for the message.

    Raises:
        UserError: a mapped or required column is not in the file; of JSON Lines, in no record of it.
    """
    columns = formats.field_names(file, form)
    if missing := formats.absent([name for name in mapping.values() if name], file, form):
        hint = formats.separator_hint(
            file, columns, form, f"{'items' if 'user_id' not in mapping else 'interactions'}_format"
        )
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected "
            f"{', '.join(filter(None, mapping.values()))}; found {', '.join(columns)}. Name the right columns in "
            f"`{parameter}` (required: {', '.join(required)}).{hint}"
        )
    may_come_later = formats.format_of(file, form) == "json"
    return {
        ours: name or ours
        for ours, name in mapping.items()
        if name or ours in columns or (may_come_later and ours not in required)
    }
