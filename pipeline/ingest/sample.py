"""A sample of a catalogue that is the same in every run: the items whose ids have the smallest hashes."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.interactions import examples
from pipeline.ingest.tally import EXAMPLES, Quality


def of_ids(ids: Iterable[str], size: int) -> set[str]:
    """At most `size` of these ids. A larger sample has all of a smaller one; a new item takes the place of at most
    one."""
    return set(heapq.nsmallest(size, ids, key=_hash))


def of_items(tables: Iterable[pa.Table], sample: set[str], file: str, quality: Quality) -> Iterator[pa.Table]:
    """The sample's rows of tables of items; the others are counted."""
    ids = pa.array(sorted(sample), pa.string())
    for table in tables:
        inside = pc.is_in(table["item_id"], value_set=ids)
        outside = table["item_id"].filter(pc.invert(inside)).to_pylist()
        quality.add(file, "item_outside_sample", "dropped", len(outside), tuple(outside[:EXAMPLES]))
        yield table.filter(inside)


def of_interactions(frame: pl.DataFrame, sample: set[str], file: str, quality: Quality) -> pl.DataFrame:
    """The interactions with items of the sample; the others are counted."""
    items = frame["item_id"].unique()
    outside = items.filter(~items.cast(pl.String).is_in(list(sample)))
    inside = ~frame["item_id"].to_physical().is_in(outside.to_physical().implode())
    rows = (~inside).arg_true()
    quality.add(file, "interaction_outside_sample", "dropped", len(rows), examples(frame, rows))
    return frame.filter(inside)


def _hash(item_id: str) -> bytes:
    return hashlib.sha256(item_id.encode(errors="replace")).digest()
