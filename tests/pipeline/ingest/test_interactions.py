"""Rules over interactions agree with the plainest possible statement of them."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import interactions as inter
from pipeline.ingest.tally import Quality

many = settings(max_examples=100, deadline=None)
Row = tuple[str, str, float | None, int | None]


def frame_of(rows: list[Row], quality: Quality | None = None) -> pl.DataFrame:
    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
    batches = [pl.DataFrame([row], schema=schema, orient="row") for row in rows]
    return inter.collect(batches, "file", quality or Quality())


def pairs_of(frame: pl.DataFrame) -> list[tuple[str, str]]:
    return frame.select(pl.col("user_id", "item_id").cast(pl.String)).rows()


ids = st.sampled_from("abcdefg")
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=40, unique=True)


@given(pairs, st.integers(1, 4))
@many
def test_k_core_is_the_largest_subset_where_all_have_k(rows, k) -> None:
    expected = list(rows)
    while True:
        users = [user for user, _ in expected]
        items = [item for _, item in expected]
        left = [(u, i) for u, i in expected if users.count(u) >= k and items.count(i) >= k]
        if left == expected:
            break
        expected = left
    frame = frame_of([(u, i, None, None) for u, i in rows])
    assert pairs_of(frame[inter.k_core(*inter.codes(frame), k)]) == expected


@given(st.lists(st.tuples(ids, ids, st.none() | st.integers(1, 5)), min_size=1, max_size=30))
@many
def test_latest_of_repeated_interactions_stays(rows) -> None:
    best: dict[tuple[str, str], int] = {}
    for number, (user, item, time) in enumerate(rows):
        kept = best.get((user, item))
        if kept is None or (time or 0) >= (rows[kept][2] or 0):
            best[user, item] = number
    frame = frame_of([(u, i, float(n), t) for n, (u, i, t) in enumerate(rows)])
    quality = Quality()
    found = inter.latest_only(frame, "file", quality)
    assert found["rating"].to_list() == sorted(float(number) for number in best.values())
    assert quality.count("repeated_interaction") == len(rows) - len(best)


def test_seconds_milliseconds_and_microseconds_become_milliseconds() -> None:
    quality = Quality()
    second = 1_400_000_000
    times = [second, second * 1000, second * 1_000_000, None, 0, -5, 10**18, 99_999_999_999]
    frame = frame_of([("u", str(n), None, time) for n, time in enumerate(times)], quality)
    assert frame["timestamp"].to_list() == [second * 1000] * 3 + [None] * 5
    assert quality.count("timestamp_in_milliseconds") == 1
    assert quality.table().to_pylist()[0]["examples"] == ["u → 1"]
    assert quality.count("timestamp_implausible") == 4


def test_unknown_items_go_with_examples() -> None:
    quality = Quality()
    rows = [("u", "a", None, None), ("u", "x", None, None), ("v", "x", None, None), ("v", "y", None, None)]
    assert pairs_of(inter.known_items(frame_of(rows), {"a"}, "file", quality)) == [("u", "a")]
    assert quality.table().to_pylist()[0] | {} == {
        "source": "file", "rule": "unknown_item", "action": "dropped", "count": 3, "examples": ["x", "y"],
    }  # fmt: skip


def test_threshold_drops_lower_and_absent_ratings() -> None:
    quality = Quality()
    rows = [("u", "a", 4.0, None), ("u", "b", 3.5, None), ("u", "c", None, None)]
    frame = frame_of(rows)
    assert inter.at_least(frame, None, "file", quality) is frame
    assert pairs_of(inter.at_least(frame, 4.0, "file", quality)) == [("u", "a")]
    assert quality.table().to_pylist()[0]["examples"] == ["u → b", "u → c"]


def test_codes_compare_equal_exactly_where_ids_do() -> None:
    frame = frame_of([("u", "a", None, None), ("v", "a", None, None), ("u", "b", None, None)])
    users, items = inter.codes(frame)
    assert users[0] == users[2] != users[1]
    assert items[0] == items[1] != items[2]
    assert users.dtype == np.uint32
