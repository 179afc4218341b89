"""Raw files written, sources read in full, and the ingest stage run and looked into."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import ingest
from pipeline.ingest import interactions
from pipeline.ingest.raw import RawFile
from pipeline.ingest.sources import open_source
from pipeline.ingest.sources.base import RAW_INTERACTIONS, RawItem
from pipeline.ingest.tally import Quality
from pipeline.published import Published
from pipeline.store import Store
from schemas.ingest import IngestConfig
from schemas.sources import FileSource

SECOND = 1_400_000_000
"""A plausible time, in seconds."""


def write(folder: Path, files: dict[str, str]) -> str:
    """Write texts by file name; returns the folder as a parameter."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def raw_file_at(path: Path) -> RawFile:
    """A file that exists, without its digest."""
    return RawFile(path.name, path, "", str(path))


def read(config: FileSource, cache: Path, quality: Quality | None = None) -> tuple[list[RawItem], pl.DataFrame]:
    """All raw items and all raw interactions of a source."""
    source = open_source(config, cache)
    source.check()
    files, quality = source.fetch(), quality or Quality()
    batches = source.interactions(files, quality, 0.01, published_split=source.has_split(files))
    return list(source.items(files, quality, 0.01)), pl.concat(batches)


def interaction_frame(
    rows: Sequence[tuple[str, str, float | None, int | None]], quality: Quality | None = None
) -> pl.DataFrame:
    """(user, item, rating, time) as the stage collects them, each row from a batch of its own."""
    batches = [pl.DataFrame([row], schema=RAW_INTERACTIONS, orient="row") for row in rows]
    return interactions.collect(batches, "file", quality or Quality())


def run(store: Store, source: FileSource, dataset: str = "x", *, items_only: bool = False, **config: Any) -> Published:
    """The stage, with fields of `IngestConfig`."""
    settings = IngestConfig(**config)
    return ingest.run(store=store, dataset=dataset, source=source, config=settings, items_only=items_only)


def rows(store: Store, published: Published, table: str) -> list[dict[str, Any]]:
    """The rows of one of the published tables."""
    return store.read(published.tables[table]).to_pylist()


def sizes(store: Store, published: Published) -> tuple[int, int, int]:
    """Numbers of warm items, users and interactions."""
    chosen = rows(store, published, "interactions")
    warm = sum(item["interactions"] > 0 for item in rows(store, published, "items"))
    return warm, len({row["user_id"] for row in chosen}), len(chosen)


def examples(store: Store, published: Published, rule: str) -> list[str]:
    """The examples of a rule."""
    return next(row["examples"] for row in rows(store, published, "quality") if row["rule"] == rule)


def splits(store: Store, published: Published) -> Counter[str]:
    """Interactions by split."""
    return Counter(row["split"] for row in rows(store, published, "interactions"))


def times(store: Store, published: Published) -> dict[tuple[str, str], Any]:
    """(user, item) → time of their interaction."""
    return {(row["user_id"], row["item_id"]): row["timestamp"] for row in rows(store, published, "interactions")}
