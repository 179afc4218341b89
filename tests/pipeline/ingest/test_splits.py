"""Splits hold out what they say, leak nothing, and depend on the seed and the ids alone."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import interactions, splits
from pipeline.ingest.sources.base import SPLIT
from pipeline.ingest.splits import DROPPED, TEST, TRAIN, VALID
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from tests.support.ingest import SECOND, examples, run

many = settings(max_examples=60, deadline=None)
CONFIG = IngestConfig()


def frame_of(rows: list[tuple[str, str, int | None]]) -> pl.DataFrame:
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    batch = pl.DataFrame(rows, schema=schema, orient="row").with_columns(rating=pl.lit(None, pl.Float32))
    return interactions.collect([batch], "file", Quality())


def catalogue(sizes: dict[str, int], *, timed: bool = True) -> list[tuple[str, str, int | None]]:
    """Each user's interactions in random order of time."""
    generator = np.random.default_rng(1)
    return [
        (user, f"i{n}", SECOND + int(time) if timed else None)
        for user, size in sizes.items()
        for n, time in enumerate(generator.permutation(size))
    ]


def by_user(rows, labels) -> dict[str, list[tuple[int, int]]]:
    times_of = defaultdict(list)
    for (user, _, time), label in zip(rows, labels, strict=True):
        times_of[user].append((time or 0, int(label)))
    return {user: sorted(times) for user, times in times_of.items()}


@pytest.mark.parametrize("n", range(1, 60))
def test_per_user_counts_are_the_protocols(n) -> None:
    rows = catalogue({"u": n})
    counts = Counter(splits.labels(frame_of(rows), "per_user", CONFIG).tolist())
    if n < 3:
        expected = (n, 0, 0)
    elif n < 10:
        expected = (n - 2, 1, 1)
    else:
        expected = (n - n // 5, n // 10, n // 5 - n // 10)
    assert (counts[TRAIN], counts[VALID], counts[TEST]) == expected


def test_per_user_counts_are_those_of_the_papers_table(shared_data: Path) -> None:
    """User by user they are the published file's too, whose labels 1 and 2 have the halves the other way round."""
    published = pl.read_csv(shared_data / "mmrec" / "clothing.inter", separator="\t").with_row_index()
    users = published["userID"].to_numpy().astype(np.uint32)
    ties = np.random.default_rng(0).permutation(len(users)).astype(np.uint64)
    ours = published.with_columns(pl.Series("ours", splits.per_user(users, np.zeros(len(users), np.int64), ties)))
    assert [(ours["ours"] == label).sum() for label in (TRAIN, VALID, TEST)] == [197_338, 40_150, 41_189]
    for label, published_label in ((TRAIN, 0), (VALID, 2), (TEST, 1)):
        counts = ours.group_by("userID").agg(
            ours=(pl.col("ours") == label).sum(), published=(pl.col("x_label") == published_label).sum()
        )
        assert (counts["published"] == counts["ours"]).all()


def test_users_of_few_interactions_hold_out_the_last_in_time() -> None:
    rows = catalogue({f"u{n}": n for n in range(3, 10)})
    for times in by_user(rows, splits.labels(frame_of(rows), "per_user", CONFIG)).values():
        assert [label for _, label in times] == [TRAIN] * (len(times) - 2) + [VALID, TEST]


def test_users_of_many_interactions_hold_out_at_random() -> None:
    rows = catalogue({f"u{n}": 50 for n in range(40)})
    labels = by_user(rows, splits.labels(frame_of(rows), "per_user", CONFIG)).values()
    mean_place = np.mean([place for times in labels for place, (_, label) in enumerate(times) if label == TEST])
    assert 20 < mean_place < 29  # uniform over 0 … 49 would be 24.5; the last ones in time would be 47


def test_leave_one_out_tests_the_last_and_validates_the_one_before() -> None:
    rows = catalogue({"a": 1, "b": 2, "c": 3, "d": 40})
    for times in by_user(rows, splits.labels(frame_of(rows), "leave_one_out", CONFIG)).values():
        held_out = [VALID, TEST] if len(times) >= 3 else []
        assert [label for _, label in times] == [TRAIN] * (len(times) - len(held_out)) + held_out


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.integers(0, 30)), min_size=12, max_size=80))
@many
def test_global_time_trains_on_nothing_newer_than_what_it_holds_out(events) -> None:
    rows = [(user, f"i{n}", SECOND + time) for n, (user, time) in enumerate(events)]
    labels = splits.labels(frame_of(rows), "global_time", CONFIG).tolist()
    times = {label: [row[2] for row, own in zip(rows, labels, strict=True) if own == label] for label in range(4)}
    assert max(times[TRAIN], default=0) < min(times[VALID] + times[TEST], default=2 * SECOND)
    assert max(times[TRAIN] + times[VALID], default=0) < min(times[TEST], default=2 * SECOND)
    trained = {row[0] for row, label in zip(rows, labels, strict=True) if label == TRAIN}
    for (user, _, _), label in zip(rows, labels, strict=True):
        assert user in trained or label == DROPPED


def test_global_time_shares() -> None:
    rows = [("u", f"i{n}", SECOND + n) for n in range(1000)]
    counts = Counter(splits.labels(frame_of(rows), "global_time", CONFIG).tolist())
    assert [counts[label] for label in (TRAIN, VALID, TEST)] == pytest.approx([800, 100, 100], abs=1)


@pytest.mark.parametrize("method", ["per_user", "leave_one_out", "global_time"])
def test_split_ignores_the_order_of_rows(method) -> None:
    rows = catalogue({f"u{n}": n for n in range(3, 30)})
    shuffled = [rows[n] for n in np.random.default_rng(3).permutation(len(rows))]
    first = dict(zip(rows, splits.labels(frame_of(rows), method, CONFIG).tolist(), strict=True))
    second = dict(zip(shuffled, splits.labels(frame_of(shuffled), method, CONFIG).tolist(), strict=True))
    assert first == second


def test_split_of_a_user_ignores_other_users_and_follows_the_seed() -> None:
    few, more = catalogue({"u": 40}), catalogue({"u": 40, "v": 40, "w": 12})
    labels = splits.labels(frame_of(few), "per_user", CONFIG)
    assert (labels == splits.labels(frame_of(more), "per_user", CONFIG)[: len(few)]).all()
    assert (labels != splits.labels(frame_of(few), "per_user", IngestConfig(seed=1))).any()


def test_split_is_the_same_everywhere() -> None:
    rows = [(f"u{n % 3}", f"i{n}", None) for n in range(60)]
    labels = splits.labels(frame_of(rows), "per_user", CONFIG)
    assert np.flatnonzero(labels == TEST).tolist() == [5, 9, 14, 19, 22, 54]


def test_per_user_needs_no_times_but_the_others_do() -> None:
    frame = frame_of(catalogue({"u": 8}, timed=False))
    assert Counter(splits.labels(frame, "per_user", CONFIG).tolist()) == {TRAIN: 6, VALID: 1, TEST: 1}
    for method in ("leave_one_out", "global_time"):
        with pytest.raises(UserError, match="8 of 8 interactions have none"):
            splits.labels(frame, method, CONFIG)


@pytest.mark.parametrize(
    ("choice", "has_split", "method"),
    [
        ("auto", True, "published"),
        ("auto", False, "per_user"),
        ("published", True, "published"),
        ("leave_one_out", True, "leave_one_out"),
    ],
)
def test_auto_is_the_published_split_where_there_is_one(choice, has_split, method) -> None:
    assert splits.method(choice, has_split=has_split) == method


def test_published_split_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"ingest\.split: published, but the source has no split"):
        splits.method("published", has_split=False)


def test_interactions_of_untrained_users_are_dropped_and_counted() -> None:
    rows = [*((user, f"i{n}", SECOND + n) for n in range(9) for user in "ab"), ("late", "i0", SECOND + 99)]
    quality = Quality()
    frame = splits.apply(frame_of(rows), "global_time", CONFIG, "file", quality)
    assert frame["split"].dtype == SPLIT
    assert "late" not in frame["user_id"].cast(pl.String)
    assert Counter(frame["split"]) == {"train": 14, "valid": 2, "test": 2}
    assert quality.table().to_pylist()[0]["examples"] == ["late → i0"]


def test_interactions_held_out_of_untrained_users_have_examples(store, shop) -> None:
    rows = [[f"v{n}", "i0", 5, SECOND + 900 + n] for n in range(5)]  # after all that is trained on
    ingested = run(store, shop(more_rows=rows), core_k=1, split="global_time")
    assert examples(store, ingested, "held_out_of_untrained_user") == ["v0 → i0", "v1 → i0", "v2 → i0"]


def test_a_split_that_leaves_nothing_to_train_on_is_refused(store, shop) -> None:
    source = shop(header=["user_id", "item_id", "timestamp", "rating"])  # the same time throughout
    with pytest.raises(UserError, match=r"global_time leaves none of 36 interactions .* for training"):
        run(store, source, split="global_time")


def test_row_hashes_are_spread_evenly() -> None:
    hashes = splits.row_hashes(frame_of([(f"u{n % 50}", f"i{n // 50}", None) for n in range(5000)]), 7)
    assert len(np.unique(hashes)) == 5000
    assert (hashes / 2**64).mean() == pytest.approx(0.5, abs=0.02)
