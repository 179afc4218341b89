"""What changed between two states of a catalogue: items by their words, pictures and imported vectors, interactions by
user and item."""

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.re_extract import Changes
from schemas.tables import ImageStatus

CONTENTS = ("items", "images", "gallery")
"""Tables that hold what encoders read."""
BATCH_ROWS = 65536


def run(*, store: Store, before: Mapping[str, TableVersion], after: Mapping[str, TableVersion]) -> Changes:
    """Compare `items`, `images`, imported features, `interactions` and, if a run made one, `gallery` of two runs of one
    data set.

    Equal versions are not read: comparing an unchanged catalogue costs nothing. Otherwise memory is about 40 bytes per
    item and 16 per interaction, for each of the two states.
    """
    new, changed, vanished, unchanged = _items(store, before, after)
    added, removed, kept = _interactions(store, before["interactions"], after["interactions"])
    return Changes(
        new=new,
        changed=changed,
        vanished=vanished,
        unchanged=unchanged,
        new_interactions=added,
        vanished_interactions=removed,
        kept_interactions=kept,
    )


def _items(
    store: Store, before: Mapping[str, TableVersion], after: Mapping[str, TableVersion]
) -> tuple[int, int, int, int]:
    imported = sorted(name for name in {*before, *after} if any(is_imported(of.get(name)) for of in (before, after)))
    read = (*CONTENTS, *imported)
    states = [{table: tables[table].version for table in read if table in tables} for tables in (before, after)]
    if states[0] == states[1]:
        return 0, 0, 0, after["items"].rows
    old, now = (_contents(store, tables, imported) for tables in (before, after))
    both = now.join(old, on="item_id", how="inner", suffix="_before")
    same = both.filter(
        pl.all_horizontal(pl.col(c).eq_missing(pl.col(f"{c}_before")) for c in now.columns if c != "item_id")
    )
    return len(now) - len(both), len(both) - len(same), len(old) - len(both), len(same)


def is_imported(version: TableVersion | None) -> bool:
    """Whether a table holds vectors that a person's file gave."""
    return version is not None and version.lineage["cm3.stage"] == "vectors"


def _contents(store: Store, tables: Mapping[str, TableVersion], imported: Sequence[str]) -> pl.DataFrame:
    """One row per item: item_id, and a hash for each kind of content that an encoder reads; null if it has none."""
    words = _hashed(store, tables["items"], "text").rename({"text": "words"})
    pictures = _hashed(store, tables["images"], "sha256", "status").rename({"sha256": "picture"})
    gallery = _hashed(store, tables.get("gallery"), "sha256", "status").drop_nulls()
    further = (
        gallery.group_by("item_id", maintain_order=True)
        .agg("sha256")
        .select("item_id", further=pl.col("sha256").hash())
    )
    vectors = [_hashed(store, tables.get(name), "content_hash").rename({"content_hash": name}) for name in imported]
    for part in (pictures, further, *vectors):
        words = words.join(part, on="item_id", how="left")
    return words


def _hashed(store: Store, version: TableVersion | None, column: str, status: str = "") -> pl.DataFrame:
    """item_id, and a hash of the column; null where it is, or where a column of statuses says that no encoder reads it:
    a picture may become a placeholder while its bytes stay the same."""
    is_read = pl.col(column).is_not_null() & ((pl.col(status) == ImageStatus.OK) if status else pl.lit(True))
    columns = [name for name in ("item_id", column, status) if name]
    parts = [
        pl.DataFrame(batch).select("item_id", pl.when(is_read).then(pl.col(column).hash()))
        for batch in (store.batches(version, columns, BATCH_ROWS) if version else ())
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema={"item_id": pl.String, column: pl.UInt64})


def _interactions(store: Store, before: TableVersion, after: TableVersion) -> tuple[int, int, int]:
    if before.version == after.version:
        return 0, 0, after.rows
    old, now = _pairs(store, before), _pairs(store, after)
    kept = len(now.join(old, on=["user", "item"], how="semi"))
    return len(now) - kept, len(old) - kept, kept


def _pairs(store: Store, version: TableVersion) -> pl.DataFrame:
    parts = [
        pl.DataFrame(batch).select(pl.col("user_id").hash().alias("user"), pl.col("item_id").hash().alias("item"))
        for batch in store.batches(version, ["user_id", "item_id"], BATCH_ROWS)
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema={"user": pl.UInt64, "item": pl.UInt64})
