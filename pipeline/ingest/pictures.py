"""The addresses of an item's pictures as the images stage reads them.

That stage judges them: an address that cannot be used stays, and is a row with a reason there.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from pipeline.ingest.sources.base import RawItem
from schemas.sources import ITEM_ID

_ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]+:|//)", re.IGNORECASE)
"""A scheme, which has two letters at least (`C:` is a drive), or the host of a page's own scheme."""
_LOADED = ("http://", "https://", "//", "data:", "file:")


class Pictures:
    """Finds the pictures of one source's items.

    Args:
        base: URL with a trailing slash that relative addresses belong to; None: they cannot be loaded.
        template: address that overrides the item's own; empty: none.
    """

    def __init__(self, base: str | None, template: str) -> None:
        self._base, self._template = base, template
        self._is_path_template = bool(template) and "://" not in template
        self._folder: Path | None = None
        if base and base.startswith("file:"):
            self._folder = Path(unquote(urlsplit(base).path)).resolve()

    def of(self, item: RawItem) -> list[str]:
        """The addresses, each once, the main picture's first."""
        raw: Iterable[str] = [self._from_template(item)] if self._template else [item.image_url, *item.gallery_urls]
        return list(dict.fromkeys(address for each in raw if (address := self._address(each.strip()))))

    def can_be_loaded(self, address: str) -> bool:
        """Whether it is of a kind that is loaded at all. Nothing is requested."""
        if self._folder and address.startswith("file:"):
            return Path(unquote(urlsplit(address).path)).is_relative_to(self._folder)
        return address.lower().startswith(_LOADED)

    def is_missing(self, address: str | None) -> bool:
        """Whether an item certainly has no picture: it has no address, one that is not loaded, or the file does not
        exist. Nothing is requested."""
        if address is None or not self.can_be_loaded(address):
            return True
        # Path's own test raises where a folder is not readable.
        return address.startswith("file:") and not os.path.isfile(unquote(urlsplit(address).path))  # noqa: PTH113

    def _from_template(self, item: RawItem) -> str:
        is_path = self._folder is not None and self._is_path_template

        def part(match: re.Match[str]) -> str:
            beginning = item.item_id[: int(match[1])] if match[1] else item.item_id
            return beginning if is_path else quote(beginning, safe="")

        return ITEM_ID.sub(part, self._template)

    def _address(self, address: str) -> str:
        if not address.isascii():  # a lone surrogate is legal in JSON's escapes but not in UTF-8
            address = address.encode(errors="replace").decode()
        is_absolute = _ABSOLUTE.match(address) and not self._is_path_template  # else the colon is an id's
        if not address or self._base is None or is_absolute:
            return address
        if not self._template:
            address = address.replace("\\", "/")  # as browsers do; Windows writes paths so
        try:
            return self._local(self._folder, address) if self._folder else self._remote(self._base, address)
        except ValueError:
            return address

    def _local(self, folder: Path, address: str) -> str:
        """URL of a file, which a leading slash puts into `folder` as well, as it is the site's. Whether it exists, and
        where its links lead, the images stage finds out anew in each run; outside `folder` it refuses to read."""
        path = Path(os.path.normpath(folder / address))
        if address.startswith("/") and not path.is_relative_to(folder):
            path = Path(os.path.normpath(folder / address.lstrip("/")))
        return path.as_uri()

    def _remote(self, base: str, address: str) -> str:
        return urljoin(base, address if self._template else quote(address, safe="/%?=&+,;@~!$'()*"))
