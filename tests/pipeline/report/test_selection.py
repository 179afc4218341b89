"""Which items and users a report shows."""

import pyarrow.compute as pc

from pipeline.report.selection import _colours, select
from pipeline.store import Store
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.published import publish


def test_the_map_is_coloured_by_the_first_level_that_tells_items_apart() -> None:
    paths = [["Shop", "Mugs"], ["Shop", "Mugs"], ["Shop", "Lamps"], ["Shop"]]
    assert _colours(paths) == (["Mugs", "Lamps", "no category"], [0, 0, 1, 2])


def test_many_categories_share_a_last_colour() -> None:
    legend, places = _colours([[f"c{n % 20:02d}"] for n in range(60)])
    assert len(legend) == 8
    assert legend[-1] == "other"
    assert max(places) == 7


def test_a_split_that_holds_out_nothing_has_no_users_to_show(small_run: Run, store: Store) -> None:
    run, tables = small_run
    interactions = run.read(tables["interactions"])
    train = publish(store, "interactions", interactions.filter(pc.field("split") == "train"), dataset="demo")
    assert select(run, {**tables, "interactions": train}, ReportConfig(thumbnail=64)).users == []


def test_a_users_story_is_history_first_recommendations_and_what_was_held_out(hostile_run: Run) -> None:
    store, tables = hostile_run
    events = store.read(tables["interactions"]).sort_by("timestamp").to_pylist()
    lists = store.read(tables["recommendations"]).sort_by("rank").to_pylist()
    users = select(store, tables, ReportConfig(history=3, recommendations=5)).users
    assert len(users) == 6
    for user in users:
        own = {
            split: [e["item_id"] for e in events if e["user_id"] == user.user_id and e["split"] == split]
            for split in ("train", "test")
        }
        assert user.history == own["train"][-3:]
        assert user.later == own["test"]
        assert user.recommended == [r["item_id"] for r in lists if r["user_id"] == user.user_id][:5]
