"""Rules about what was read: items, interactions, their columns, and the pictures."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contracts import columns
from pipeline.contracts.measured import Measured, Tables
from pipeline.store import Store
from schemas.contracts import JUDGED, nullable
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus

DAY = timedelta(days=1)
UNREADABLE = ("_unreadable", "_implausible", "_unusable", "_outside_raw")
"""Ends of the rules in `quality` that say that something could not be read or used."""
UNUSABLE = (
    "not_a_record",
    "item_without_id",
    "interaction_without_user",
    "interaction_without_item",
    "unknown_item",
    "split_unknown",
)
"""Further such rules. All others are wanted (a threshold, the k-core) or lose nothing (a repaired text)."""
OF_ITEMS = ("warm_item", "rare_item", "unsold_item")


def items_lost(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """Items of the last published version that are gone."""
    yield from _missing(store, now, before, here="items", there=("before", "now"))


def items_gained(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """Items that the last published version did not have."""
    yield from _missing(store, now, before, here="items", there=("now", "before"))


def _missing(store: Store, now: Tables, before: Tables, *, here: str, there: tuple[str, str]) -> Iterator[Measured]:
    """Items of the first of two states that the second has not."""
    if here not in now or here not in before:
        return
    if now[here].version == before[here].version:
        yield Measured(here, 0.0)
        return
    first, second = ({"now": now, "before": before}[name][here] for name in there)
    ids = (columns.hashed(store, version, ["item_id"]) for version in (first, second))
    gone = next(ids).join(next(ids), on="item_id", how="anti")["row"]
    yield Measured(here, len(gone) / max(1, before[here].rows), columns.examples(store, first, gone))


def nulls(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:  # noqa: ARG001 - as every rule
    """Share of null in each column that may be null; examples are the ids of such rows."""
    for table in JUDGED.keys() & now.keys():
        for column, share in _null_shares(store, now[table]).items():
            yield Measured(f"{table}.{column}", share, _first_nulls(store, now[table], column) if share else ())


def nulls_risen(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """By how much the share of null in each column is higher than before."""
    for table in JUDGED.keys() & now.keys() & before.keys():
        if now[table].version == before[table].version:
            risen = dict.fromkeys(nullable(table), 0.0)
        else:
            shares, old = _null_shares(store, now[table]), _null_shares(store, before[table])
            risen = {column: max(0.0, share - old.get(column, 1.0)) for column, share in shares.items()}
        for column, rise in risen.items():
            yield Measured(f"{table}.{column}", rise, _first_nulls(store, now[table], column) if rise else ())


def _null_shares(store: Store, version: TableVersion) -> dict[str, float]:
    counts: Counter[str] = Counter()
    names = nullable(version.table)
    for batch in store.batches(version, names, columns.BATCH_ROWS):
        names = [name for name in names if name in batch.column_names]  # an older version may lack a column
        counts.update({name: batch[name].null_count for name in names})
    return {name: counts[name] / max(1, version.rows) for name in names}


def _first_nulls(store: Store, version: TableVersion, column: str) -> tuple[str, ...]:
    ids: list[str] = []
    for batch in store.batches(version, ["item_id", column], columns.BATCH_ROWS):
        ids += batch.filter(pc.is_null(batch[column]))["item_id"].slice(0, columns.EXAMPLES).to_pylist()
        if len(ids) >= columns.EXAMPLES:
            break
    return tuple(ids[: columns.EXAMPLES])


def unreadable(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:  # noqa: ARG001
    """Rows that could not be read or used, by rule, as a share of those published or dropped of the same file."""
    if "quality" not in now or "items" not in now:  # published anew with remarks on pictures: judged before
        return
    rows = store.read(now["quality"]).to_pylist()
    of_items = {row["source"] for row in rows if row["rule"] in OF_ITEMS}
    for row in rows:
        if not row["rule"].endswith(UNREADABLE) and row["rule"] not in UNUSABLE:
            continue
        is_item = not of_items or row["source"] in of_items
        table = now.get("items" if is_item else "interactions")
        dropped = sum(r["count"] for r in rows if r["source"] == row["source"] and r["action"] == "dropped")
        share = row["count"] / max(1, (table.rows if table else 0) + dropped)
        yield Measured(row["rule"], share, tuple(row["examples"]))


def pictures_failed(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:  # noqa: ARG001
    """Pictures that failed, by status, as a share of the items with an address."""
    if "images" not in now:
        return
    counts: Counter[str] = Counter()
    first: dict[str, list[str]] = {}
    for batch in store.batches(now["images"], ["item_id", "status"], columns.BATCH_ROWS):
        for item_id, status in zip(batch["item_id"].to_pylist(), batch["status"].to_pylist(), strict=True):
            counts[status] += 1
            if len(ids := first.setdefault(status, [])) < columns.EXAMPLES:
                ids.append(item_id)
    addressed = now["images"].rows - counts.pop(ImageStatus.NO_URL, 0)
    counts.pop(ImageStatus.OK, None)
    counts.pop(ImageStatus.PLACEHOLDER, None)  # fetched, and left out on purpose
    for status, count in counts.most_common():
        yield Measured(status, count / max(1, addressed), tuple(first[status]))


def interactions_back(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:
    """Days by which the newest interaction is older than the newest of before."""
    newest, old = _newest(store, now), _newest(store, before)
    if newest is not None and old is not None:
        yield Measured("interactions", max(0.0, (old[0] - newest[0]) / DAY), newest[1])


def interactions_age(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:  # noqa: ARG001
    """Days from the newest interaction to now."""
    if (newest := _newest(store, now)) is not None:
        yield Measured("interactions", max(0.0, (datetime.now(UTC) - newest[0]) / DAY), newest[1])


def interactions_ahead(store: Store, now: Tables, before: Tables) -> Iterator[Measured]:  # noqa: ARG001
    """Days by which the newest interaction lies in the future: the feed, or this machine's clock, is wrong."""
    if (newest := _newest(store, now)) is not None:
        yield Measured("interactions", max(0.0, (newest[0] - datetime.now(UTC)) / DAY), newest[1])


def _newest(store: Store, tables: Mapping[str, TableVersion]) -> tuple[datetime, tuple[str, ...]] | None:
    """The newest time, and the last three interactions; None where no interaction has a time."""
    if "interactions" not in tables:
        return None
    last = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("ms", "UTC")})
    for batch in store.batches(tables["interactions"], last.columns, columns.BATCH_ROWS):
        frame = pl.DataFrame(batch.cast(pa.schema([batch.schema.field(name) for name in last.columns])))
        last = pl.concat([last, frame.drop_nulls("timestamp")]).top_k(columns.EXAMPLES, by="timestamp")
    if last.is_empty():
        return None
    rows = last.sort("timestamp", descending=True).iter_rows()
    shown = tuple(f"{user} → {item} at {time:%Y-%m-%d %H:%M}" for user, item, time in rows)
    newest = last["timestamp"].max()
    assert isinstance(newest, datetime)
    return newest, shown
