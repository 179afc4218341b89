"""Contents that no model has seen: of pictures that are kept, and of pictures that are yet to come."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cache import ShardCache
from pipeline.contents import content_hash, nothing_held, shards
from pipeline.images import stage as images
from pipeline.images.client import is_as_before
from pipeline.images.kept import KeptImages
from pipeline.images.outcome import Validators
from pipeline.images.shared import SharedPictures
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus


@dataclass
class Pictures:
    """What is known of a catalogue's pictures before any is fetched.

    Attributes:
        due: URL → validators, as the images stage would request them.
        unknown: those of `due` whose content may be new.
        tables: `images` and, if asked for, `gallery`, where they are published as the run would publish them.
    """

    store: Store
    items: TableVersion
    config: ImagesConfig
    read_from: Store
    due: dict[str, Validators | None] = field(init=False)
    unknown: set[str] = field(init=False)
    tables: dict[str, TableVersion] = field(init=False)

    def __post_init__(self) -> None:
        self._kept = KeptImages(self.store, self.config)
        urls = images.urls_by_item(self.read_from, self.items, self.config.most_pictures)
        self._shared = SharedPictures(urls, self._kept, self.items.rows, self.config)
        self._url_rows = {"images": partial(images.main_urls, self.read_from, self.items)}
        if self.config.pictures != "main":
            most = self.config.most_pictures
            self._url_rows["gallery"] = partial(images.further_urls, self.read_from, self.items, most)
        self.due = self._kept.due(rows["url"].to_pylist() for read in self._url_rows.values() for rows in read())
        self.unknown = {url for url in self.due if not url.startswith("file:") or not self._is_as_before(url)}
        self.tables = {}
        if not self.unknown:
            for table, read in self._url_rows.items():
                lineage = images.describe(table, self.items, self.config, map(self._with_outcomes, read()))
                if version := self.store.find(lineage):
                    self.tables[table] = version

    def _with_outcomes(self, rows: pa.Table) -> pa.Table:
        return self._shared.with_placeholders(self._kept.with_outcomes(rows))

    def _is_as_before(self, url: str) -> bool:
        status = self._kept.outcomes.lookup([url])["status"][0].as_py()
        return is_as_before(url, self.due[url], status, self.config)

    @property
    def is_published(self) -> bool:
        """Whether the stage would find its tables."""
        return len(self.tables) == len(self._url_rows)

    def hashes(self, *, gallery: bool) -> tuple[set[str], int]:
        """Content hashes of the pictures that are known, and the number of URLs whose content is not."""
        known: set[str] = set()
        unknown: set[str] = set()
        for table in self._url_rows if gallery else ("images",):
            for rows in self._url_rows[table]():
                with_pictures = self._kept.with_pictures(self._with_outcomes(rows), images.SCHEMAS[table])
                known |= set(_hashes(with_pictures, self.unknown))
                unknown |= self.unknown.intersection(rows["url"].to_pylist())
        return known, len(unknown)

    def mean_bytes(self) -> float | None:
        """Mean size of the first stored pictures of this catalogue that are known; None if there are none."""
        for rows in self._url_rows["images"]():
            stored = self._kept.with_pictures(self._with_outcomes(rows), images.SCHEMAS["images"])["image"]
            if (mean := pc.mean(pc.binary_length(stored)).as_py()) is not None:
                return float(mean)
        return None


def _hashes(rows: pa.Table, unknown: set[str]) -> Iterator[str]:
    for url, status, image in zip(*(rows[name].to_pylist() for name in ("url", "status", "image")), strict=True):
        if status == ImageStatus.OK and url not in unknown:
            yield content_hash(image)


def of_texts(store: Store, version: TableVersion, column: str) -> set[str]:
    """Content hashes of a table's texts."""
    batches = store.batches(version, [column])
    return {content_hash(text) for batch in batches for text in batch[column].to_pylist() if text is not None}


def of_items(store: Store, items: TableVersion, pictures: Mapping[str, TableVersion]) -> set[str]:
    """Content hashes of the items' texts and pictures together."""
    parts = shards(store, items, nothing_held, size=1024, images=pictures["images"], gallery=pictures.get("gallery"))
    return {key for shard in parts for key in shard.fresh}


def fresh(contents: Collection[str], cache: ShardCache | None) -> int:
    """How many of the contents the cache does not hold; without one, all."""
    return len(contents) if cache is None else len(contents) - len(cache.held(contents))
