"""Raw items to the rows of the `items` table: clean text, prices as numbers, usable picture addresses."""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from pipeline.ingest.prices import price
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from pipeline.ingest.text import plain
from schemas.errors import UserError

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes; no common file system has longer ones."""


def text_of(title: str, brand: str, categories: list[str], description: str) -> str | None:
    """What text encoders read: title, brand, categories (joined by ", ") and description, one per line, without empty
    ones and repeated categories; None if all are empty."""
    parts = (title, brand, ", ".join(dict.fromkeys(categories)), description)
    return "\n".join(part for part in parts if part) or None


def is_missing(url: str | None) -> bool:
    """Whether an item certainly has no picture: it has no address, or the file does not exist. Nothing is requested."""
    if url is None or not url.startswith("file:"):
        return url is None
    return not os.path.isfile(unquote(urlsplit(url).path))  # noqa: PTH113 - Path's raises if a folder is not readable


class _Unusable(Exception):  # noqa: N818 - carries the reason to where it is counted
    """A picture's address that cannot be used; counted as rule `image_<reason>` or `gallery_<reason>`."""


@dataclass
class Finisher:
    """Makes rows of one source's raw items, counting what it repairs.

    Args:
        file: name of the items file, for the tally and for errors.
        base: URL with a trailing slash that relative addresses belong to; None: they cannot be used.
        template: address that overrides the item's own; empty: none.
    """

    file: str
    quality: Quality
    base: str | None = None
    template: str = ""
    _folder: Path | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.base and self.base.startswith("file:"):
            self._folder = Path(unquote(urlsplit(self.base).path)).resolve()

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
            lacks = [name for name in require if _lacks(row, name)]
            if lacks:
                self._count(item, f"item_without_{lacks[0]}", "dropped")
            else:
                yield row
        if not seen:
            raise UserError(f"{self.file}: no record has an id. Check the file and the column of the id.")

    def row(self, item: RawItem) -> dict[str, Any]:
        """One row with the columns of `schemas.tables.ITEMS`, except the number of its interactions."""
        title = self._cleaned(item, "title", item.title)
        description = self._cleaned(item, "description", item.description)
        brand = self._cleaned(item, "brand", item.brand)
        categories = [word for raw in item.categories if (word := self._cleaned(item, "categories", raw))]
        cost = price(item.price)
        if cost is None and item.price not in (None, ""):
            self._count(item, "price_unreadable", "repaired")
        text = text_of(title, brand, categories, description)
        urls = self.pictures(item)
        if text is None and not urls:
            self._count(item, "neither_words_nor_picture", "kept")
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
        }

    def _cleaned(self, item: RawItem, name: str, raw: str) -> str:
        text, repair = plain(raw) if raw else ("", "")
        if repair:
            self._count(item, f"{name}_{repair}", "repaired")
        return text

    def pictures(self, item: RawItem) -> list[str]:
        """Usable addresses, each once, the main picture's first; unusable ones are counted by reason."""
        if self.template:
            name = item.item_id if self._folder and "://" not in self.template else quote(item.item_id, safe="")
            return list(self._usable(item, "image", [self.template.replace("{item_id}", name)]))
        main = self._usable(item, "image", [item.image_url])
        return list(dict.fromkeys([*main, *self._usable(item, "gallery", item.gallery_urls)]))

    def _usable(self, item: RawItem, what: str, raw: Iterable[str]) -> Iterator[str]:
        for each in raw:
            try:
                if address := self._address(each.strip()):
                    yield address
            except _Unusable as reason:
                self._count(item, f"{what}_{reason}", "repaired")

    def _address(self, address: str) -> str:
        if address.startswith(("http://", "https://")):
            if len(address.split()) > 1:
                raise _Unusable("url_unusable")
            return address
        if not address:
            return ""
        if self.base is None or "\0" in address or (not self.template and ":" in address.split("/")[0]):
            raise _Unusable("url_unusable")
        return self._local(self._folder, address) if self._folder else self._remote(self.base, address)

    def _local(self, folder: Path, address: str) -> str:
        """URL of a file inside `folder`. Whether it exists, and where its links lead, the images stage finds out anew
        in each run."""
        path = Path(os.path.normpath(folder / address))
        if not path.is_relative_to(folder):
            raise _Unusable("outside_raw")
        try:
            name = os.fsencode(path)
        except UnicodeEncodeError as error:
            raise _Unusable("url_unusable") from error
        if len(name) > _LONGEST_PATH or max(map(len, name.split(b"/"))) > _LONGEST_NAME:
            raise _Unusable("url_unusable")
        return path.as_uri()

    def _remote(self, base: str, address: str) -> str:
        try:
            url = urljoin(base, address if self.template else quote(address, safe="/%?=&+,;@~!$'()*"))
        except ValueError as error:
            raise _Unusable("url_unusable") from error
        # "//other-host/x.jpg" and "../../x.jpg" would leave the source's own place.
        if not url.startswith(base):
            raise _Unusable("outside_raw")
        return url

    def _count(self, item: RawItem, rule: str, action: str) -> None:
        self.quality.add(self.file, rule, action, 1, (item.item_id,))


def _lacks(row: dict[str, Any], name: str) -> bool:
    return is_missing(row["image_url"]) if name == "image" else not row[name]
