"""Which items and users a report shows."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.report.selection import _colours, select
from pipeline.store import Store
from schemas import tables as contract
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run, made_with
from tests.support.published import publish, publish_items


def test_the_map_is_coloured_by_the_first_level_that_tells_items_apart() -> None:
    paths = [["Shop", "Mugs"], ["Shop", "Mugs"], ["Shop", "Lamps"], ["Shop"]]
    assert _colours(paths) == (["Mugs", "Lamps", "no category"], [0, 0, 1, 2])


def test_the_sample_of_items_follows_from_their_ids_alone(hostile_run: Run) -> None:
    store, tables = hostile_run
    samples = [
        select(store, shown, ReportConfig(max_items=count, users=0)).ids
        for count in (20, 30)
        for shown in (tables, {"items": tables["items"]})
    ]
    assert [len(ids) for ids in samples] == [20, 20, 30, 30]
    assert set(samples[0]) == set(samples[1]) < set(samples[2]) == set(samples[3])


def test_many_categories_share_a_last_colour() -> None:
    legend, places = _colours([[f"c{n % 20:02d}"] for n in range(60)])
    assert len(legend) == 8
    assert legend[-1] == "other"
    assert max(places) == 7


def test_a_split_that_holds_out_nothing_has_users_to_show_unless_their_lists_are_of_held_out_choices(
    small_run: Run, store: Store
) -> None:
    run, tables = small_run
    interactions = run.read(tables["interactions"])
    train = publish(store, "interactions", interactions.filter(pc.field("split") == "train"), dataset="demo")
    assert len(select(run, {**tables, "interactions": train}, ReportConfig(users=2)).users) == 2
    measured = made_with(tables["recommendations"], refit=False, exclude="train")
    changed = {**tables, "interactions": train, "recommendations": measured}
    assert select(run, changed, ReportConfig(users=2)).users == []


def test_a_users_story_is_the_latest_choices_of_all_splits_and_first_recommendations_with_reasons(
    hostile_run: Run,
) -> None:
    store, tables = hostile_run
    events = store.read(tables["interactions"]).sort_by("timestamp").to_pylist()
    lists = store.read(tables["recommendations"]).sort_by("rank").to_pylist()
    selection = select(store, tables, ReportConfig(history=3, recommendations=5))
    assert len(selection.users) == 6
    for user in selection.users:
        assert user.history == [e["item_id"] for e in events if e["user_id"] == user.user_id][-3:]
        assert user.later == []
        places = [(r["item_id"], r["because"] or [], "") for r in lists if r["user_id"] == user.user_id][:5]
        assert user.recommended == places
        assert {reason for _, because, _ in places for reason in because} <= selection.number.keys()
    assert any(place.because for user in selection.users for place in user.recommended)


@pytest.mark.parametrize(
    ("settings", "history", "later", "marks"),
    [
        ({"refit": True, "exclude": "all"}, ["a", "b", "c"], [], ["before", "before", "before", ""]),
        ({"refit": False, "exclude": "all"}, ["a", "b", "c"], [], ["before", "before", "before", ""]),
        ({"refit": True, "exclude": "none"}, ["a", "b", "c"], [], ["before", "before", "before", ""]),
        ({"refit": False, "exclude": "none"}, ["a"], ["b", "c"], ["before", "later", "later", ""]),
        ({"refit": False, "exclude": "train"}, ["a"], ["b", "c"], ["before", "later", "later", ""]),
    ],
)
def test_what_was_chosen_later_is_told_apart_only_where_training_did_not_see_it_and_lists_may_hold_it(
    store: Store, settings: dict[str, object], history: list[str], later: list[str], marks: list[str]
) -> None:
    splits = zip("abc", ("train", "valid", "test"), strict=True)
    chosen = [{"user_id": "u", "item_id": item, "split": split} for item, split in splits]
    places = [{"user_id": "u", "item_id": item, "rank": rank, "score": 1.0} for rank, item in enumerate("abcd", 1)]
    tables = {
        "items": publish_items(store, [(item, item) for item in "abcd"]),
        "interactions": publish(store, "interactions", pa.Table.from_pylist(chosen, schema=contract.INTERACTIONS)),
        "recommendations": publish(
            store, "recommendations", pa.Table.from_pylist(places, schema=contract.RECOMMENDATIONS), config=settings
        ),
    }
    (user,) = select(store, tables, ReportConfig()).users
    assert (user.history, user.later) == (history, later)
    assert [place.chosen for place in user.recommended] == marks
