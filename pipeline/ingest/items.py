"""Raw items to the rows of the `items` table: clean text, prices as numbers, addresses of pictures."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.ingest.pictures import Pictures
from pipeline.ingest.prices import price
from pipeline.ingest.readable import EXAMPLES, judge
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from pipeline.ingest.text import plain
from schemas.errors import UserError

logger = logging.getLogger(__name__)


def text_of(title: str, brand: str, categories: list[str], description: str, more: Iterable[str] = ()) -> str | None:
    """What text encoders read: title, brand, categories (joined by ", "), description and more, one per line, without
    empty ones and repeated categories; None if all are empty."""
    parts = (title, brand, ", ".join(dict.fromkeys(categories)), description, *more)
    return "\n".join(part for part in parts if part) or None


@dataclass
class Finisher:
    """Makes rows of one source's raw items, counting what it repairs.

    Args:
        file: name of the items file, for the tally and for errors.
        mapped: our name → the file's, of the columns that a person named: if (almost) nothing can be read of one, the
            file is refused.
    """

    file: str
    quality: Quality
    pictures: Pictures
    mapped: Mapping[str, str] = field(default_factory=dict)

    def rows(self, items: Iterable[RawItem], *, require: Collection[str]) -> Iterator[dict[str, Any]]:
        """A row for each item that is kept. Of two items with one id the first counts.

        Args:
            require: "title", "image": what an item must have.

        Raises:
            UserError: there is no item.
        """
        seen: set[str] = set()
        for item in items:
            if item.item_id in seen:
                self._count(item, "duplicate_item", "dropped")
                continue
            seen.add(item.item_id)
            row = self.row(item)
            lacks = [name for name in require if self._lacks(row, name)]
            if lacks:
                self._count(item, f"item_without_{lacks[0]}", "dropped")
            else:
                yield row
        if not seen:
            raise UserError(f"{self.file}: no record has an id. Check the file and the column of the id.")

    def judge(self, filled: Mapping[str, int]) -> None:
        """Warn of columns of which much could not be read, or by which no item is marked, once all rows are made.

        Args:
            filled: column → the rows that have a value.

        Raises:
            UserError: (almost) nothing could be read of a mapped column.
        """
        for name, column in self.quality.unread.items():
            column.values = column.unread + filled[name]
            is_mapped = name in self.mapped and column.unread >= EXAMPLES
            what = f"values of {self.mapped.get(name, name)} ({name})"
            advice = "" if name == "price" else "give a path into its objects, such as `product.name`"
            judge(column, what, self.file, advice, is_mapped=is_mapped)
        shown = self.quality.shown
        if shown.values and "never_shown" in self.mapped and not self.quality.count("never_shown"):
            logger.warning(
                "%s: no item is marked as never shown: column %s says %s, and none of `never_shown_values`",
                *(self.file, self.mapped["never_shown"], ", ".join(shown.examples) or "nothing"),
            )

    def row(self, item: RawItem) -> dict[str, Any]:
        """One row with the columns of `schemas.tables.ITEMS`, except the number of its interactions."""
        title = self._cleaned(item, "title", item.title)
        description = self._cleaned(item, "description", item.description)
        brand = self._cleaned(item, "brand", item.brand)
        categories = [word for raw in item.categories if (word := self._cleaned(item, "categories", raw))]
        cost = price(item.price)
        if cost is None and item.price not in (None, ""):
            self.quality.unreadable(self.file, "price", item.item_id, item.price)
        more = [line for raw in item.more_text if (line := self._cleaned(item, "more_text", raw))]
        text = text_of(title, brand, categories, description, more)
        urls = self.pictures.of(item)
        if text is None and not urls:
            self._count(item, "neither_words_nor_picture", "kept")
        if item.never_shown:
            self._count(item, "never_shown", "kept")
        return {
            "item_id": item.item_id,
            "title": title or None,
            "description": description or None,
            "brand": brand or None,
            "categories": categories,
            "price": cost,
            "image_url": urls[0] if urls else None,
            "text": text,
            "gallery_urls": urls[1:] or None,
            "never_shown": item.never_shown,
        }

    def _cleaned(self, item: RawItem, name: str, raw: str) -> str:
        text, repair = plain(raw) if raw else ("", "")
        if repair:
            self._count(item, f"{name}_{repair}", "repaired")
        return text

    def _lacks(self, row: dict[str, Any], name: str) -> bool:
        if name == "image":
            return self.pictures.is_missing(row["image_url"])
        return not row[name]

    def _count(self, item: RawItem, rule: str, action: str) -> None:
        self.quality.add(self.file, rule, action, 1, (item.item_id,))
