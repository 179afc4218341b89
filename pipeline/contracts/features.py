"""Rules about features: how many items have them, whether vectors stay where they were, and equal contents."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contracts import columns
from pipeline.contracts.measured import Measured, Tables
from pipeline.store import Store
from schemas.lineage import TableVersion

PREFIX = "features/"
SAME_DIRECTION = 0.999
"""Cosine of two vectors of one content above which they differ by rounding only: another machine's arithmetic."""
COMPARED = 4096
"""Most pairs of differing vectors that are compared; the share among them stands for all."""
IDENTITY = ("cm3.encoder", "cm3.revision", "cm3.config", "cm3.stage_version")
"""What identifies an encoder in a table's lineage."""


def coverage_lost(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """Share of a feature's coverage that was lost; examples are items that had the feature."""
    for feature, version, old in _both(now, before):
        if version.version == old.version:
            yield Measured(feature, 0.0)
            continue
        ours, theirs = (columns.hashed(store, v, ["item_id", "content_hash"]) for v in (version, old))
        share, had = (1 - f["content_hash"].null_count() / max(1, len(f)) for f in (ours, theirs))
        lost = ours.filter(pl.col("content_hash").is_null()).join(theirs.drop_nulls(), on="item_id", how="semi")["row"]
        yield Measured(feature, max(0.0, 1 - share / had) if had else 0.0, columns.examples(store, version, lost))


def duplicates_risen(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """By how much the share of items whose content another item has too is higher than before."""
    for feature, version, old in _both(now, before):
        if version.version == old.version:
            yield Measured(feature, 0.0)
            continue
        share, rows = _shared(store, version)
        yield Measured(feature, max(0.0, share - _shared(store, old)[0]), columns.examples(store, version, rows))


def _shared(store: Store, version: TableVersion) -> tuple[float, pl.Series]:
    """Share of the items with a feature whose content another one has, and the rows with the commonest content."""
    frame = columns.hashed(store, version, ["content_hash"]).drop_nulls()
    counted = frame.with_columns(count=pl.len().over("content_hash"))
    shared = counted.filter(pl.col("count") > 1)
    commonest = shared.filter(pl.col("count") == pl.col("count").max())
    return len(shared) / max(1, len(frame)), commonest["row"]


def vectors_moved(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """Share of the items with the same content and encoder as before whose vector points elsewhere."""
    for feature, version, old in _both(now, before):
        if any(version.lineage.get(key) != old.lineage.get(key) for key in IDENTITY):
            continue
        if version.version == old.version:
            yield Measured(feature, 0.0)
            continue
        pairs = _contents(store, version).join(_contents(store, old), on=["item_id", "content_hash"], suffix="_old")
        differing = pairs.filter(pl.col("vector") != pl.col("vector_old"))
        compared = differing.sort("row").head(COMPARED)
        ours, theirs = _vectors(store, version, compared["row"]), _vectors(store, old, compared["row_old"])
        moved = compared.filter(pl.Series(_cosines(ours, theirs) < SAME_DIRECTION, dtype=pl.Boolean))["row"]
        share = len(differing) / max(1, len(pairs)) * len(moved) / max(1, len(compared))
        yield Measured(feature, share, columns.examples(store, version, moved))


def _both(now: Tables, before: Tables) -> Iterator[tuple[str, TableVersion, TableVersion]]:
    """Feature name, its table and that of before, where both exist."""
    for name in now:
        if name.startswith(PREFIX) and name in before:
            yield name.removeprefix(PREFIX), now[name], before[name]


def _contents(store: Store, version: TableVersion) -> pl.DataFrame:
    """Row, and hashes of item, content and vector, of the items that have the feature."""
    vectors = [
        pl.Series(_as_bytes(_matrix(batch)), dtype=pl.Binary).hash()
        for batch in store.batches(version, ["embedding", "content_hash"], columns.BATCH_ROWS // 16)
    ]
    frame = columns.hashed(store, version, ["item_id", "content_hash"]).drop_nulls("content_hash")
    return frame.with_columns(vector=pl.concat(vectors) if vectors else pl.Series([], dtype=pl.UInt64))


def _matrix(batch: pa.Table) -> np.ndarray:
    """Vectors of the rows that have one, (rows, dim) float32."""
    vectors = batch["embedding"].filter(pc.is_valid(batch["content_hash"])).combine_chunks()
    width = vectors.type.list_size
    numbers = vectors.values[vectors.offset * width : (vectors.offset + len(vectors)) * width]
    matrix: np.ndarray = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix


def _as_bytes(matrix: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in matrix]


def _vectors(store: Store, version: TableVersion, rows: pl.Series) -> np.ndarray:
    """The vectors of these rows, in the order of `rows`."""
    wanted, start, parts = np.sort(rows.to_numpy()), 0, []
    for batch in store.batches(version, ["embedding", "content_hash"], columns.BATCH_ROWS // 16):
        inside = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
        parts.append(_matrix(batch.take(pa.array(inside, pa.int64()))))
        start += len(batch)
    matrix = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    return matrix[np.argsort(np.argsort(rows.to_numpy()))]


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(rows,) cosine of each pair; 1 where both are zero."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a.astype(np.float64) * b).sum(axis=1)
    cosines: np.ndarray = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), (a == b).all(axis=1))
    return cosines
