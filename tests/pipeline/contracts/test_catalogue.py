"""Rules about what was read, each on tables as ingest and the images stage publish them."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline.contracts import catalogue
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.tables import IMAGES, INTERACTIONS, ITEMS, QUALITY
from tests.support.published import publish


def items(store: Store, *ids: str, title: str | None = "words") -> dict[str, TableVersion]:
    rows = [{"item_id": item_id, "categories": [], "title": title} for item_id in ids]
    return {"items": publish(store, "items", pa.Table.from_pylist(rows, schema=ITEMS))}


def interactions(store: Store, *times: datetime) -> dict[str, TableVersion]:
    rows = [{"user_id": "u", "item_id": f"i{n}", "split": "train", "timestamp": time} for n, time in enumerate(times)]
    return {"interactions": publish(store, "interactions", pa.Table.from_pylist(rows, schema=INTERACTIONS))}


def test_lost_and_gained_items_are_told_apart_with_their_ids(store: Store) -> None:
    before, now = items(store, "a", "b", "c", "d"), items(store, "d", "e")
    (lost,) = catalogue.items_lost(store, now, before)
    (gained,) = catalogue.items_gained(store, now, before)
    assert (lost.figure, lost.examples) == (0.75, ("a", "b", "c"))
    assert (gained.figure, gained.examples) == (0.25, ("e",))


def test_without_a_last_version_nothing_is_compared(store: Store) -> None:
    now = items(store, "a")
    for rule in (catalogue.items_lost, catalogue.items_gained, catalogue.nulls_risen):
        assert list(rule(store, now, {})) == []


def test_a_column_that_went_null_is_named_with_items_that_lack_it(store: Store) -> None:
    before, now = items(store, "a", "b"), items(store, "a", "b", title=None)
    risen = {m.part: m for m in catalogue.nulls_risen(store, now, before)}
    assert (risen["items.title"].figure, risen["items.title"].examples) == (1.0, ("a", "b"))
    assert risen["items.price"].figure == 0.0, "it was null before too"
    assert {m.part: m.figure for m in catalogue.nulls(store, now, {})}["items.title"] == 1.0


def test_rows_that_could_not_be_read_are_a_share_of_their_own_files_rows(store: Store) -> None:
    rows = [
        ("items.csv", "warm_item", "kept", 6),
        ("items.csv", "not_a_record", "dropped", 2),
        ("orders.csv", "timestamp_unreadable", "repaired", 1),
        ("orders.csv", "interaction_outside_5_core", "dropped", 2),
    ]
    table = [{"source": s, "rule": r, "action": a, "count": c, "examples": ["x"]} for s, r, a, c in rows]
    quality = {"quality": publish(store, "quality", pa.Table.from_pylist(table, schema=QUALITY))}
    time = datetime(2026, 1, 1, tzinfo=UTC)
    tables = items(store, *"abcdef") | interactions(store, time, time) | quality
    shares = {m.part: m.figure for m in catalogue.unreadable(store, tables, {})}
    assert shares == {"not_a_record": 2 / 8, "timestamp_unreadable": 1 / 4}


def test_failed_pictures_are_a_share_of_the_items_with_an_address_by_status(store: Store) -> None:
    statuses = ["ok", "ok", "timeout", "not_found", "no_url", "no_url"]
    rows = [{"item_id": f"i{n}", "status": status} for n, status in enumerate(statuses)]
    images = {"images": publish(store, "images", pa.Table.from_pylist(rows, schema=IMAGES))}
    failed = {m.part: (m.figure, m.examples) for m in catalogue.pictures_failed(store, images, {})}
    assert failed == {"timeout": (0.25, ("i2",)), "not_found": (0.25, ("i3",))}


def test_orders_that_end_earlier_than_before_are_days_back(store: Store) -> None:
    newest = datetime(2026, 5, 10, tzinfo=UTC)
    before, now = interactions(store, newest), interactions(store, newest - timedelta(days=9), newest - timedelta(40))
    (back,) = catalogue.interactions_back(store, now, before)
    assert back.figure == 9.0
    assert back.examples[0] == "u → i0 at 2026-05-01 00:00"
    assert [m.figure for m in catalogue.interactions_back(store, before, now)] == [0.0]


@pytest.mark.parametrize(("days", "age", "ahead"), [(-3.0, 3.0, 0.0), (5.0, 0.0, 5.0)])
def test_the_newest_order_has_an_age_or_with_a_clock_set_back_lies_ahead(
    store: Store, days: float, age: float, ahead: float
) -> None:
    now = interactions(store, datetime.now(UTC) + timedelta(days=days))
    assert [m.figure for m in catalogue.interactions_age(store, now, {})] == [pytest.approx(age, abs=0.1)]
    assert [m.figure for m in catalogue.interactions_ahead(store, now, {})] == [pytest.approx(ahead, abs=0.1)]
