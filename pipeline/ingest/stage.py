"""Raw catalogue → `items`, `interactions` and `quality`: what is kept, what is not, and why."""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.ingest import interactions as inter
from pipeline.ingest import splits
from pipeline.ingest.items import Finisher, is_missing
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import open_source
from pipeline.ingest.sources.base import Source
from pipeline.ingest.tally import EXAMPLES, Quality
from pipeline.published import Published, rows_by
from pipeline.store import READ_BYTES, Store, explained
from pipeline.table_writer import PARQUET
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from schemas.lineage import Lineage, TableVersion
from schemas.sources import AmazonSource, SourceConfig
from schemas.tables import INTERACTIONS, ITEMS, QUALITY

logger = logging.getLogger(__name__)

STAGE_VERSION = 3
TABLES = ("items", "interactions", "quality")
ITEM_ROWS = 4096
INTERACTION_ROWS = 1 << 18


def check(*, store: Store, source: SourceConfig) -> None:
    """Refuse a source whose files are not there, before any work.

    Raises:
        UserError: names the field, what was expected and what was found.
    """
    open_source(source, store.scratch("raw")).check()


def run(*, store: Store, dataset: str, source: SourceConfig, config: IngestConfig) -> Published:
    """Fetch, read, filter, split and publish; or find what was published from equal files with equal parameters.

    Args:
        dataset: name in the store; empty: the source's own.

    Counts rows by the rule that dropped, repaired or kept them: the table `quality`.

    Raises:
        UserError: files are missing, damaged or of another format; or nothing is left after the filters.
    """
    opened = open_source(source, store.scratch("raw"))
    opened.check()
    files = opened.fetch()
    if config.split == "published" and not opened.has_split:
        raise UserError("ingest.split: published, but the source has no split. Use per_user or map a split column.")
    opened.has_split &= config.split in ("auto", "published")
    dataset = dataset or source.dataset
    lineages = _lineages(dataset, source, config, opened, files)
    tables = {table: version for table, lineage in lineages.items() if (version := store.find(lineage))}
    if len(tables) == len(TABLES):
        return _answer(store, tables)
    scratch = store.scratch(f"ingest/{dataset}")  # of a fixed name: a killed run's is used again
    with explained(f"{dataset}'s items, unfiltered,", store):
        tables = _Run(store, opened, files, source, config, lineages).run(scratch / "items.parquet")
    shutil.rmtree(scratch, ignore_errors=True)
    return _answer(store, tables)


def _answer(store: Store, tables: dict[str, TableVersion]) -> Published:
    return Published(tables, rows_by(store, tables["quality"], "rule", "count"))


def _lineages(
    dataset: str, source: SourceConfig, config: IngestConfig, opened: Source, files: dict[str, RawFile]
) -> dict[str, Lineage]:
    """Equal bytes and parameters give equal versions, wherever the bytes lie. Where picture addresses are relative to
    that place, it counts for the tables that they decide. Which pictures lie there counts only where items without
    one are left out."""
    described = source.model_dump(mode="json", exclude={"raw", "image_url"})
    base = opened.image_base if opened.relative_images else None
    pictures = {"image_url": source.image_url, "base": base}
    if "image" in config.require and base and base.startswith("file:"):
        pictures["missing"] = _missing(source, config, opened, files)
    lineages = {}
    for table in TABLES:
        settings = {"source": described, **config.model_dump(mode="json")}
        if table != "interactions" or "image" in config.require:
            settings["pictures"] = pictures
        if table != "interactions" and isinstance(source, AmazonSource) and source.has_galleries:
            settings["galleries"] = True  # sets them apart from tables that were made of the main pictures alone
        lineages[table] = Lineage(
            dataset=dataset,
            table=table,
            stage="ingest",
            stage_version=STAGE_VERSION,
            config=settings,
            inputs={f"raw/{file.name}": file.sha256 for file in files.values()},
        )
    return lineages


def _missing(source: SourceConfig, config: IngestConfig, opened: Source, files: dict[str, RawFile]) -> str:
    """Digest of the ids of the items without a picture. It takes a pass over the items; no other table knows those that
    were left out."""
    finisher = Finisher("", Quality(), opened.image_base, source.image_url)
    found = hashlib.sha256()
    for item in opened.items(files, Quality(), config.max_bad_share):
        if is_missing(next(iter(finisher.pictures(item)), None)):
            found.update(item.item_id.encode(errors="replace") + b"\n")
    return found.hexdigest()


class _Run:
    """One run's state: the tally, and names for it."""

    def __init__(
        self, store: Store, opened: Source, files: dict[str, RawFile], source: SourceConfig, config: IngestConfig,
        lineages: dict[str, Lineage],
    ) -> None:  # fmt: skip
        self.store, self.opened, self.files, self.source = store, opened, files, source
        self.config, self.lineages = config, lineages
        self.quality = Quality()
        self.items_name, self.name = files["items"].name, files["interactions"].name

    def run(self, scratch: Path) -> dict[str, TableVersion]:
        raw = self.opened.interactions(self.files, self.quality, self.config.max_bad_share)
        frame = inter.collect(raw, self.name, self.quality)
        read = len(frame)
        known = self._write_items(scratch, set(frame["item_id"].unique().cast(pl.String)))
        frame = self._filtered(frame, known, read)
        frame, labels = self._split(frame)
        kept = set(frame["item_id"].unique().cast(pl.String))
        logger.info("%s: %s of %s interactions, %s items kept", self.name, f"{len(frame):,}", f"{read:,}", len(kept))
        items = self._publish_items(scratch, kept)
        chosen = self._publish_interactions(frame, labels)
        with self.store.writer(QUALITY, self.lineages["quality"]) as writer:
            writer.write(self.quality.table())
        return {"items": items, "interactions": chosen, "quality": writer.version}

    def _write_items(self, scratch: Path, chosen: set[str]) -> set[str]:
        """Clean rows of the items that were ever chosen, into `scratch`; returns their ids."""
        template = self.source.image_url
        finisher = Finisher(self.items_name, self.quality, self.opened.image_base, template)
        known: set[str] = set()
        seen: set[str] = set()
        with _item_writer(scratch) as write:
            for item in self.opened.items(self.files, self.quality, self.config.max_bad_share):
                if item.item_id in seen:
                    self.quality.add(self.items_name, "duplicate_item", "dropped", 1, (item.item_id,))
                    continue
                seen.add(item.item_id)
                if item.item_id not in chosen:
                    self.quality.add(self.items_name, "item_without_interaction", "dropped", 1, (item.item_id,))
                    continue
                row = finisher.row(item)
                lacks = [name for name in self.config.require if _lacks(row, name)]
                if lacks:
                    self.quality.add(self.items_name, f"item_without_{lacks[0]}", "dropped", 1, (item.item_id,))
                    continue
                known.add(item.item_id)
                write(row)
        if not seen:
            raise UserError(f"{self.items_name}: no record has an id. Check the file and the column of the id.")
        return known

    def _filtered(self, frame: pl.DataFrame, known: set[str], read: int) -> pl.DataFrame:
        frame = inter.known_items(frame, known, self.name, self.quality)
        if frame.is_empty():
            raise UserError(
                f"None of the {read:,} interactions of {self.name} is with an item of {self.items_name} "
                f"({self.quality.count('unknown_item'):,} unknown). Do the two files belong together, and is the right "
                "column mapped to the item's id?"
            )
        frame = inter.latest_only(frame, self.name, self.quality)
        before = frame = inter.at_least(frame, self.config.min_rating, self.name, self.quality)
        if self._method() != "published":
            rows = inter.k_core(*inter.codes(frame), self.config.core_k)
            self._count_core(frame, rows)
            frame = frame[rows]
        if frame.is_empty():
            raise UserError(self._nothing_left(before, read))
        return frame

    def _count_core(self, frame: pl.DataFrame, rows: NDArray[np.int64]) -> None:
        if len(rows) == len(frame):
            return
        rule = f"outside_{self.config.core_k}_core"
        outside = np.ones(len(frame), dtype=bool)
        outside[rows] = False
        lost = np.flatnonzero(outside)
        self.quality.add(self.name, f"interaction_{rule}", "dropped", len(lost), inter.examples(frame, lost))
        for name, file in (("user_id", self.name), ("item_id", self.items_name)):
            ids = frame[name].to_physical().to_numpy()
            stays = np.zeros(int(ids.max()) + 1, dtype=bool)
            stays[ids[rows]] = True
            gone = frame[name].gather(lost[~stays[ids[lost]]]).unique(maintain_order=True)
            examples = tuple(gone.head(EXAMPLES).cast(pl.String))
            self.quality.add(file, f"{name.removesuffix('_id')}_{rule}", "dropped", len(gone), examples)

    def _nothing_left(self, before: pl.DataFrame, read: int) -> str:
        users, items = before["user_id"].n_unique(), before["item_id"].n_unique()
        advice = f"Lower core_k (now {self.config.core_k})"
        if self.config.min_rating is not None:
            advice += f" or min_rating (now {self.config.min_rating:g})"
        return (
            f"Nothing is left of {self.name}: {read:,} interactions were read, {len(before):,} remained before the "
            f"{self.config.core_k}-core ({users:,} users, {items:,} items), 0 after it. {advice}, or use a larger "
            "category."
        )

    def _method(self) -> str:
        """The split's method, "auto" resolved."""
        own = "published" if self.opened.has_split else "per_user"
        return own if self.config.split == "auto" else self.config.split

    def _split(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.uint8]]:
        method = self._method()
        if method == "published":
            labels = frame["split"].to_physical().to_numpy().astype(np.uint8)
        else:
            labels = splits.split(frame, method, self.config)
        if not (labels == splits.TRAIN).any():
            raise UserError(
                f"ingest.split: {method} leaves none of {len(frame):,} interactions of {self.name} for training. Are "
                "all times equal, or is the split's column the right one? Choose per_user, or mend the file."
            )
        if not (labels == splits.VALID).any():
            logger.warning(
                "%s: the split %s leaves nothing for validation, without which nothing trains", self.name, method
            )
        ok = labels != splits.DROPPED
        lost = np.flatnonzero(~ok)
        self.quality.add(self.name, "held_out_of_untrained_user", "dropped", len(lost), inter.examples(frame, lost))
        return (frame, labels) if ok.all() else (frame.filter(ok), labels[ok])

    def _publish_items(self, scratch: Path, kept: set[str]) -> TableVersion:
        with self.store.writer(ITEMS, self.lineages["items"]) as writer:
            unfiltered = pq.ParquetFile(scratch, pre_buffer=False, buffer_size=READ_BYTES)
            for batch in unfiltered.iter_batches(ITEM_ROWS):
                table = pa.Table.from_batches([batch])
                writer.write(table.filter(pa.array([item in kept for item in table["item_id"].to_pylist()])))
        return writer.version

    def _publish_interactions(self, frame: pl.DataFrame, labels: NDArray[np.uint8]) -> TableVersion:
        names = pl.Series("split", splits.SPLITS)
        with self.store.writer(INTERACTIONS, self.lineages["interactions"]) as writer:
            for start in range(0, len(frame), INTERACTION_ROWS):
                part = frame.slice(start, INTERACTION_ROWS)
                table = part.select(
                    pl.col("user_id", "item_id").cast(pl.String),
                    "rating",
                    pl.col("timestamp").cast(pl.Datetime("ms", "UTC")),
                    names.gather(labels[start : start + len(part)]),
                ).to_arrow()
                writer.write(table.cast(INTERACTIONS))
        return writer.version


def _lacks(row: dict[str, Any], name: str) -> bool:
    return is_missing(row["image_url"]) if name == "image" else not row[name]


@contextmanager
def _item_writer(path: Path) -> Iterator["_ItemWriter"]:
    writer = _ItemWriter(path)
    try:
        yield writer
        writer.flush()
    finally:
        writer.file.close()


class _ItemWriter:
    """Rows of `ITEMS` to a Parquet file, a few thousand at a time."""

    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetWriter(path, ITEMS, **PARQUET)
        self.rows: list[dict[str, object]] = []

    def __call__(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        if len(self.rows) >= ITEM_ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            # By column: `Table.from_pylist` takes 20 times as long.
            columns = [pa.array([row[field.name] for row in self.rows], field.type) for field in ITEMS]
            self.file.write_table(pa.table(columns, schema=ITEMS))
            self.rows = []
