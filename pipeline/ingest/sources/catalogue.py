"""Your own catalogue: items and interactions in CSV, JSON Lines or Parquet, by a mapping of columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.ingest.files import formats
from pipeline.ingest.files.interaction_columns import Columns, raw_interactions
from pipeline.ingest.files.json_lines import as_text, nested
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import CatalogueSource

DEPTHS = {"title": 0, "description": 0, "brand": 0, "image_url": 0, "categories": 1, "gallery_urls": 1}
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
            self.raw.find(f"the {role} file ({role})", [getattr(self.config, role)])

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        return {role: self.raw.fetch(getattr(self.config, role)) for role in _roles(items_only)}

    def has_split(self, files: dict[str, RawFile]) -> bool:
        """Whether a column is mapped to `split`, or is called so."""
        return bool(self.config.interaction_columns.split) or "split" in formats.field_names(files["interactions"])

    def interactions(
        self, files: dict[str, RawFile], quality: Quality, max_bad: float, *, published_split: bool
    ) -> Iterator[pl.DataFrame]:
        """The interactions file by its mapping."""
        file, mapping = files["interactions"], self.config.interaction_columns.model_dump()
        names = named_columns(mapping, file, ("user_id", "item_id"), "interaction_columns")
        if not published_split:
            names.pop("split", None)
        columns = Columns(**names)
        batches = formats.tables(file, list(names.values()), quality, max_bad)
        return raw_interactions(batches, columns, file, quality)

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """The items file by its mapping."""
        file = files["items"]
        names = named_columns(dict(self.config.item_columns), file, ("item_id",), "item_columns")
        for record in formats.records(file, list(names.values()), quality, max_bad):
            fields = {ours: record.get(theirs) for ours, theirs in names.items()}
            if item_id := (as_text(fields.pop("item_id")) or "").strip():
                for name, depth in DEPTHS.items():
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


def _roles(items_only: bool) -> tuple[str, ...]:
    return ("items",) if items_only else ("items", "interactions")


def texts(value: Any, separator: str) -> list[str]:
    """The texts of a list, or of one text that holds several."""
    values = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in map(as_text, values) if text]


def named_columns(
    mapping: dict[str, str | None], file: RawFile, required: tuple[str, ...], parameter: str
) -> dict[str, str]:
    """Our name → the file's, for the columns that are mapped or are called like ours. In JSON Lines, where a field may
    first occur in the last record, an optional field is always looked for.

    Args:
        required: our names that the file must have.
        parameter: what a person would change, for the message.

    Raises:
        UserError: a mapped or required column is not in the file; of JSON Lines, in no record of it.
    """
    present = formats.field_names(file)
    if missing := formats.absent([name for name in mapping.values() if name], file):
        raise UserError(
            f"{file.name}: column {', '.join(missing)} is missing; expected "
            f"{', '.join(filter(None, mapping.values()))}; found {', '.join(present)}. Name the right columns in "
            f"`{parameter}` (required: {', '.join(required)})."
        )
    may_come_later = formats.format_of(file) == "json"
    return {
        ours: name or ours
        for ours, name in mapping.items()
        if name or ours in present or (may_come_later and ours not in required)
    }
