"""Columns of any file to raw items: a list that is written as text is one, and several columns may make one field."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.ingest.cells import LIKE_LISTS, listed
from pipeline.ingest.files.json_lines import as_text, nested
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality

DEPTHS = {"title": 0, "description": 1, "brand": 0, "image_url": 1, "categories": 1, "gallery_urls": 1}
"""Field → 0: one text, 1: a list of texts. A deeper list or an object in its place is counted and left out."""
LISTS = ("categories", "gallery_urls")
"""Fields that are lists, or texts with separators."""


@dataclass(frozen=True)
class ItemColumns:
    """How the columns of one items file become the fields of items.

    Attributes:
        names: our name → the file's, in the order in which several are put together: texts with a blank between, lists
            one after the other, of prices the first one.
        separators: of the fields in `LISTS`.
        missing: words that stand for nothing.
        never_shown: what the column of that name says, as `compared`, of an item that is shown to nobody.
    """

    names: Mapping[str, tuple[str, ...]]
    separators: Mapping[str, str]
    missing: Collection[str]
    never_shown: Collection[str | float]
    file: RawFile
    quality: Quality

    def item(self, item_id: str, record: Mapping[str, Any]) -> RawItem:
        """The item of one record. What cannot be read is left out, and counted as lists in texts are."""
        fields: dict[str, Any] = {}
        for ours, theirs in self.names.items():
            value = record.get(theirs[0])
            is_read = len(theirs) == 1 and (value is None or _is_plain(value))  # mostly
            fields[ours] = value if is_read else self._field(item_id, ours, [record.get(name) for name in theirs])
        image = fields.get("image_url")
        pictures = texts(fields.get("gallery_urls"), self.separators["gallery_urls"])
        if isinstance(image, list):
            first, *more = [*texts(image, ""), ""]
            image, pictures = first, [*filter(None, more), *pictures]
        return RawItem(
            item_id,
            title=joined(fields.get("title")),
            description=joined(fields.get("description")),
            brand=joined(fields.get("brand")),
            categories=texts(fields.get("categories"), self.separators["categories"]),
            price=fields.get("price"),
            image_url=as_text(image) or "",
            gallery_urls=pictures,
            never_shown=self._is_never_shown(fields.get("never_shown")),
        )

    def _is_never_shown(self, value: Any) -> bool | None:
        if value is None:
            return None
        said = value if isinstance(value, list) else [value]
        words = [str(each) if isinstance(each, bool) else as_text(each) or "" for each in said]
        if any(compared(word) in self.never_shown for word in words):
            return True
        self.quality.shown.add(1, 0, filter(None, map(str.strip, words)))
        return False

    def _field(self, item_id: str, name: str, values: list[Any]) -> Any:
        if len(values) == 1:
            return self._read(item_id, name, values[0])
        present = [self._read(item_id, name, value) for value in values if not self._is_nothing(value)]
        if name == "price":
            return next(iter(present), None)
        return [text for value in present for text in self._texts(name, value)]

    def _texts(self, name: str, value: Any) -> list[str]:
        separator = self.separators.get(name)
        return texts(value if separator or isinstance(value, list) else [value], separator or "")

    def _is_nothing(self, value: Any) -> bool:
        return value is None or (isinstance(value, str) and (not value.strip() or value.strip() in self.missing))

    def _read(self, item_id: str, name: str, value: Any) -> Any:
        if name not in DEPTHS or value is None or _is_plain(value):
            return value
        depth = DEPTHS[name]
        if isinstance(value, str):
            try:
                elements = listed(value, quoted=name not in LISTS)
            except ValueError:
                self.quality.unreadable(self.file.name, name, item_id, value)
                return None
            if elements is None:
                return value
            self.quality.add(self.file.name, f"{name}_list_in_text", "repaired", 1, (item_id,))
            value, depth = elements, 1
        if nested(value, depth):
            self.quality.unreadable(self.file.name, name, item_id, value)
            return None
        return value


def _is_plain(value: Any) -> bool:
    """Whether a value is certainly a text, and no list that is written as one."""
    return isinstance(value, str) and not value.startswith(LIKE_LISTS)


def compared(word: str) -> str | float:
    """What words are compared by: their number where they are one, so that `0.0` is `0`; else lower case."""
    word = word.strip().lower()
    try:
        number = float(word)
    except ValueError:
        return word
    return number if math.isfinite(number) else word


def joined(value: Any) -> str:
    """One text; of a list, its texts with blanks between."""
    return " ".join(texts(value, "")) if isinstance(value, list) else as_text(value) or ""


def texts(value: Any, separator: str) -> list[str]:
    """The texts of a list, or of one text that holds several."""
    if value is None:
        return []
    values = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [text for text in map(as_text, values) if text]


def with_further_rows(items: Iterable[RawItem], file: str, quality: Quality) -> Iterator[RawItem]:
    """Items to whose gallery the pictures of their further rows are added, which are counted.

    In a shop's export a product with several pictures has a row for each: the first says everything, those right after
    it have its id, a picture and no words. So have rows of variants, which may have no picture either.
    """
    item: RawItem | None = None
    for row in items:
        if item is not None and row.item_id == item.item_id and not _has_words(row):
            pictures = [picture for picture in (row.image_url, *row.gallery_urls) if picture]
            item.gallery_urls = [*item.gallery_urls, *pictures]
            rule = "further_picture_row" if pictures else "further_row_without_picture"
            quality.add(file, rule, "kept" if pictures else "dropped", 1, (row.item_id,))
            continue
        if item is not None:
            yield item
        item = row
    if item is not None:
        yield item


def _has_words(item: RawItem) -> bool:
    return bool(item.title or item.description or item.brand or item.categories)
