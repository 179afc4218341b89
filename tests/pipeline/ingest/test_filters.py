"""Rules over interactions agree with the plainest possible statement of them, and say what they left out."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import filters
from pipeline.ingest.interactions import codes
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import ItemColumns
from tests.support.ingest import SECOND, examples, interaction_frame, run

many = settings(max_examples=100, deadline=None)


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
    frame = interaction_frame([(u, i, None, None) for u, i in rows])
    assert pairs_of(frame[filters.k_core(*codes(frame), k)]) == expected


def test_interactions_and_users_outside_the_core_are_counted() -> None:
    quality = Quality()
    rows = [(user, item, None, None) for user in "uv" for item in "ab"] + [
        ("w", "a", None, None),
        ("u", "c", None, None),
    ]
    frame = filters.core(interaction_frame(rows), 2, "file", quality)
    assert pairs_of(frame) == [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    assert [(row["source"], row["rule"], row["count"], row["examples"]) for row in quality.table().to_pylist()] == [
        ("file", "interaction_outside_2_core", 2, ["w → a", "u → c"]),
        ("file", "user_outside_2_core", 1, ["w"]),
    ]


def test_interactions_outside_the_core_have_examples(store, shop) -> None:
    ingested = run(store, shop(more_rows=[[f"v{n}", "i0", 5, SECOND + 900 + n] for n in range(5)]))
    assert examples(store, ingested, "interaction_outside_5_core") == ["v0 → i0", "v1 → i0", "v2 → i0"]


@given(st.lists(st.tuples(ids, ids, st.none() | st.integers(1, 5)), min_size=1, max_size=30))
@many
def test_latest_of_repeated_interactions_stays(rows) -> None:
    best: dict[tuple[str, str], int] = {}
    for number, (user, item, time) in enumerate(rows):
        before = best.get((user, item))
        if before is None or (time or 0) >= (rows[before][2] or 0):
            best[user, item] = number
    frame = interaction_frame([(u, i, float(n), t) for n, (u, i, t) in enumerate(rows)])
    quality = Quality()
    latest = filters.latest_only(frame, "file", quality)
    assert latest["rating"].to_list() == sorted(float(number) for number in best.values())
    assert quality.count("repeated_interaction") == len(rows) - len(best)


def test_unknown_items_go_with_examples() -> None:
    quality = Quality()
    rows = [("u", "a", None, None), ("u", "x", None, None), ("v", "x", None, None), ("v", "y", None, None)]
    assert pairs_of(filters.in_catalogue(interaction_frame(rows), {"a"}, "file", quality)) == [("u", "a")]
    assert quality.table().to_pylist()[0] == {
        "source": "file",
        "rule": "unknown_item",
        "action": "dropped",
        "count": 3,
        "examples": ["x", "y"],
    }


def test_threshold_drops_lower_and_absent_ratings() -> None:
    quality = Quality()
    rows = [("u", "a", 4.0, None), ("u", "b", 3.5, None), ("u", "c", None, None)]
    frame = interaction_frame(rows)
    assert filters.at_least(frame, None, "file", quality) is frame
    assert pairs_of(filters.at_least(frame, 4.0, "file", quality)) == [("u", "a")]
    assert quality.table().to_pylist()[0]["examples"] == ["u → b", "u → c"]


def test_nothing_left_says_how_much_there_was_and_what_to_change(store, shop) -> None:
    with pytest.raises(UserError) as refused:
        run(store, shop(), core_k=7, min_rating=2.0)
    message = str(refused.value)
    assert "36 interactions were read, 36 remained before the 7-core (6 users, 6 items), 0 after it" in message
    assert "Lower core_k (now 7) or min_rating (now 2)" in message
    with pytest.raises(UserError, match="36 interactions were read, 0 remained"):
        run(store, shop(), min_rating=6.0)


def test_where_there_is_no_core_only_the_rating_is_advised() -> None:
    frame = interaction_frame([("u", "a", 3.0, None)])
    with pytest.raises(UserError, match=r"0 after it\. Lower min_rating \(now 4\), or"):
        filters.apply(frame, {"a"}, Quality(), min_rating=4.0, core_k=1, items_file="items", file="file")


def test_files_that_do_not_belong_together_are_refused(store, shop) -> None:
    source = shop(item_columns=ItemColumns(item_id="title"))
    with pytest.raises(UserError, match=r"None of the 36 interactions .* is with an item of items\.jsonl"):
        run(store, source)
