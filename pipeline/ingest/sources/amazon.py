"""Amazon Reviews 2014, 2018 and 2023, from the distributions' own files.

Sources: the data sets' pages (McAuley lab, UC San Diego) and the files themselves. Files of one release differ, and
every variant is read: gzip or not; full reviews, 5-core or ratings only; `image` or `imageURL`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.ingest.cells import present
from pipeline.ingest.files import json_lines
from pipeline.ingest.files.delimited import tables
from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.files.json_lines import Record, as_text, nested
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import AmazonSource

_LAB: Final = "https://mcauleylab.ucsd.edu/public_datasets/data"
_SNAP: Final = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"

REVIEWS: Final = {
    2014: ("reviews_{0}_5.json.gz", "ratings_{0}.csv", "reviews_{0}.json.gz"),
    2018: ("{0}_5.json.gz", "{0}.json.gz", "{0}.csv"),
    2023: ("{0}.csv.gz", "{0}.jsonl.gz"),  # ratings alone are a tenth of the bytes
}
"""Release → names of the file of interactions, the preferred one first; each with and without .gz."""
METADATA: Final = {2014: "meta_{0}.json.gz", 2018: "meta_{0}.json.gz", 2023: "meta_{0}.jsonl.gz"}

PUBLIC: Final = {
    2014: {"": _SNAP},
    2018: {
        "meta_": f"{_LAB}/amazon_v2/metaFiles2",
        "_5.json.gz": f"{_LAB}/amazon_v2/categoryFilesSmall",
        ".csv": f"{_LAB}/amazon_v2/categoryFilesSmall",
        "": f"{_LAB}/amazon_v2/categoryFiles",
    },
    2023: {
        "meta_": f"{_LAB}/amazon_2023/raw/meta_categories",
        ".csv.gz": f"{_LAB}/amazon_2023/benchmark/0core/rating_only",
        "": f"{_LAB}/amazon_2023/raw/review_categories",
    },
}
"""Release → beginning or end of a file's name → the folder of that file; the first match counts."""

_FIELDS: Final = {
    2014: Columns("reviewerID", "asin", "overall", "unixReviewTime"),
    2018: Columns("reviewerID", "asin", "overall", "unixReviewTime"),
    2023: Columns("user_id", "parent_asin", "rating", "timestamp"),
}
_CSV_HEADERS: Final = {
    2014: ("reviewerID", "asin", "overall", "unixReviewTime"),
    2018: ("asin", "reviewerID", "overall", "unixReviewTime"),  # the two releases differ in order
    2023: None,  # a header line of its own
}
_TEXTS: Final = {
    2014: {
        "title": "title",
        "description": "description",
        "brand": "brand",
        "categories": "categories",
        "imUrl": "image_url",
    },
    2018: {
        "title": "title",
        "description": "description",
        "brand": "brand",
        "category": "categories",
        "imageURLHighRes": "image_url",
        "imageURL": "image_url",
        "image": "image_url",
    },
    2023: {
        "title": "title",
        "description": "description",
        "store": "brand",
        "categories": "categories",
        "main_category": "categories",
    },
}
"""Release → its text fields → ours."""

_MODIFIER = re.compile(r"\._[^/]*_(?=\.[A-Za-z]{3,4}$)")


class Amazon:
    """One category of one release."""

    def __init__(self, config: AmazonSource, cache: Path) -> None:
        self.config = config
        category, release = config.category, config.release
        self._reviews = [name for each in REVIEWS[release] for name in _either(each.format(category))]
        self._metadata = _either(METADATA[release].format(category))
        public = {name: f"{_folder(name, release)}/{name}" for name in (*self._reviews, *self._metadata)}
        self.raw = RawFiles(config.raw, cache, public, field="raw" if config.raw else "category")
        self.relative_images = bool(config.image_url) and "://" not in config.image_url

    @property
    def image_base(self) -> str | None:
        """The place of the raw files; the catalogue's own addresses are absolute."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:
        """Both files exist, and `raw` is given if the picture template is relative."""
        if self.relative_images and self.image_base is None:
            raise UserError("image_url: a relative template needs `raw`. Give a full http(s) URL, or `raw`.")
        self._names(items_only)

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:
        """The roles `items` and `interactions`."""
        return {role: self.raw.fetch(name) for role, name in self._names(items_only).items()}

    def has_split(self, files: dict[str, RawFile]) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def interactions(
        self,
        files: dict[str, RawFile],
        quality: Quality,
        max_bad: float,
        *,
        published_split: bool,  # noqa: ARG002 - there is none
    ) -> Iterator[pl.DataFrame]:
        """Reviews or ratings as raw interactions."""
        file, fields = files["interactions"], _FIELDS[self.config.release]
        if file.name.removesuffix(".gz").endswith(".csv"):
            batches = tables(file, quality, max_bad, header=_CSV_HEADERS[self.config.release])
        else:
            batches = json_lines.columns(file, fields.present().values(), quality, max_bad)
        return raw_interactions(batches, fields, file, quality, Reading(self.config.missing))

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:
        """Metadata as raw items."""
        return present(self._items(files["items"], quality, max_bad), self.config.missing, files["items"].name, quality)

    def _items(self, file: RawFile, quality: Quality, max_bad: float) -> Iterator[RawItem]:
        make = _ITEMS[self.config.release]
        for record in json_lines.records(file, quality, max_bad, literal=self.config.release == 2014):
            if item_id := as_text(record.get("parent_asin" if self.config.release == 2023 else "asin")):
                for name in _unreadable(record, self.config.release):
                    quality.add(file.name, f"{name}_unreadable", "repaired", 1, (item_id,))
                yield make(item_id, record)
            else:
                quality.add(file.name, "item_without_id", "dropped", 1, (str(record.get("title") or "untitled")[:60],))

    def _names(self, items_only: bool) -> dict[str, str]:
        what = f"of Amazon {self.config.release} {self.config.category}"
        names = {"items": self.raw.find(f"the metadata {what}", self._metadata)}
        return names if items_only else names | {"interactions": self.raw.find(f"the reviews {what}", self._reviews)}


def _unreadable(record: Record, release: int) -> Iterable[str]:
    """Our names of the fields that hold neither a text nor a list of texts (categories of 2014: a list of paths)."""
    names = {
        ours: None  # a dictionary keeps their order
        for theirs, ours in _TEXTS[release].items()
        if nested(record.get(theirs), 2 if release == 2014 and ours == "categories" else 1)
    }
    pictures = record.get("images") if release == 2023 else None
    if pictures and not (isinstance(pictures, list) and all(isinstance(picture, dict) for picture in pictures)):
        names["image_url"] = None
    return names


def item_2014(item_id: str, record: Record) -> RawItem:
    """`categories` is a list of paths, of which the first is used; `imUrl` is one picture of about 300 pixels."""
    paths = _list(record.get("categories"))
    return RawItem(
        item_id,
        title=_text(record.get("title")),
        description=_text(record.get("description")),
        brand=_text(record.get("brand")),
        categories=_texts(paths[0] if paths else []),
        price=record.get("price"),
        image_url=_text(record.get("imUrl")),
    )


def item_2018(item_id: str, record: Record) -> RawItem:
    """Two schemas: `imageURLHighRes` and `imageURL`, or `image`; thumbnails are turned into full-size addresses."""
    pictures = next(filter(None, (_texts(record.get(key)) for key in ("imageURLHighRes", "imageURL", "image"))), [])
    return RawItem(
        item_id,
        title=_text(record.get("title")),
        description=" ".join(_texts(record.get("description"))),
        brand=_text(record.get("brand")),
        categories=_texts(record.get("category")),
        price=record.get("price"),
        image_url=full_size(pictures[0]) if pictures else "",
        gallery_urls=[full_size(picture) for picture in pictures[1:]],
    )


def item_2023(item_id: str, record: Record) -> RawItem:
    """The main picture is the MAIN variant, else the first; of each its `hi_res`, which may be null, else `large`, else
    `thumb`. `features` and `details` go into the text alone."""
    pictures = [picture for picture in _list(record.get("images")) if isinstance(picture, dict)]
    pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")
    urls = [url for picture in pictures if (url := _largest(picture))]
    return RawItem(
        item_id,
        title=_text(record.get("title")),
        description=" ".join(_texts(record.get("description"))),
        brand=_text(record.get("store")),
        categories=_texts(record.get("categories")) or _texts(record.get("main_category")),
        price=record.get("price"),
        image_url=urls[0] if urls else "",
        gallery_urls=urls[1:],
        more_text=[*_texts(record.get("features")), *_details(record.get("details"))],
    )


def _details(value: Any) -> Iterator[str]:
    """`Colour: Blue` of `{"Colour": "Blue"}`; what is nested, such as ranks of sales, is no word about the item."""
    for name, detail in value.items() if isinstance(value, dict) else ():
        if text := as_text(detail):
            yield f"{name}: {text}"


_ITEMS: Final[dict[int, Callable[[str, Record], RawItem]]] = {2014: item_2014, 2018: item_2018, 2023: item_2023}


def full_size(url: str) -> str:
    """An Amazon picture's address without the size modifier: `…/I/51abc._SX38_SY50_.jpg` → `…/I/51abc.jpg`."""
    return _MODIFIER.sub("", url)


def _largest(picture: dict[str, Any]) -> str:
    """Address of one picture of the 2023 release; empty if it has none."""
    sizes = (picture.get(size) for size in ("hi_res", "large", "thumb"))
    url = next((size for size in sizes if isinstance(size, str) and size), "")
    return full_size(url) if url.endswith(".jpg") and "_SX38_SY50" in url else url


def _either(name: str) -> tuple[str, str]:
    plain = name.removesuffix(".gz")
    return (name, plain) if plain != name else (name, f"{name}.gz")


def _folder(name: str, release: int) -> str:
    return next(folder for part, folder in PUBLIC[release].items() if name.startswith(part) or name.endswith(part))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(_texts(value))


def _texts(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else _list(value)
    return [text for text in values if isinstance(text, str) and text]
