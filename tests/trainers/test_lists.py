"""Somebody else's lists are judged exactly as our own, and what is wrong with them is said."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from schemas.errors import UserError
from schemas.training import EvaluationConfig
from tests.support.world import World
from trainers.baselines.popularity import popularity
from trainers.data import Dataset, load
from trainers.evaluation import evaluate, rank, recommend
from trainers.lists import COLUMNS, GivenLists, digest


@pytest.fixture
def dataset(world: World) -> Dataset:
    return load(world.tables)


def written(table: pa.Table, tmp_path: Path) -> str:
    path = tmp_path / "theirs.parquet"
    pq.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("mask_validation", [False, True])
def test_popularitys_own_lists_score_exactly_as_the_built_in(
    dataset: Dataset, tmp_path: Path, mask_validation: bool
) -> None:
    lists = rank(popularity(dataset), dataset, k=len(dataset.items))
    table = recommend(lists, dataset, k=len(dataset.items))
    shuffled = table.take(pa.array(range(len(table) - 1, -1, -1)))  # the order of rows says nothing
    given = GivenLists(written(shuffled, tmp_path), dataset, "theirs")
    rule = EvaluationConfig(mask_validation=mask_validation)
    for split in ("valid", "test"):
        ours, theirs = evaluate(popularity(dataset), dataset, split, rule), given.judged(split, rule)
        assert theirs.values == ours.values
        assert theirs.counts == ours.counts


def test_items_chosen_in_training_are_passed_over_as_in_our_lists(dataset: Dataset, tmp_path: Path) -> None:
    popular = popularity(dataset)
    everything = rank(popular, dataset, k=len(dataset.items), left_out=sp.csr_matrix((60, 40)))
    table = recommend(everything, dataset, k=len(dataset.items))
    strangers = pa.table({"user_id": ["nobody", dataset.users[0]], "item_id": [dataset.items[0], "nothing"]})
    strangers = strangers.append_column("rank", pa.array([1, 0], pa.int32())).cast(table.select([*COLUMNS]).schema)
    table = pa.concat_tables([table.select([*COLUMNS]), strangers])
    given = GivenLists(written(table, tmp_path), dataset, "theirs")
    rule = EvaluationConfig()
    assert given.judged("test", rule).values == evaluate(popular, dataset, "test", rule).values


def test_a_user_without_a_list_finds_nothing(dataset: Dataset, tmp_path: Path) -> None:
    table = recommend(rank(popularity(dataset), dataset, k=20), dataset, k=20)
    half = table.filter(pa.compute.less(table["user_id"], "u030"))
    given = GivenLists(written(half, tmp_path), dataset, "theirs").judged("test", EvaluationConfig())
    assert given.counts["recall", 20] == 60
    assert not given.per_user["recall", 20][30:].any()
    assert given.per_user["recall", 20][:30].any()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"user_id": ["u000"], "item_id": ["i000"]}, "expected columns .*rank"),
        ({"user_id": ["u000"], "item_id": ["i000"], "rank": [0.5]}, "whole numbers"),
        ({"user_id": [None], "item_id": ["i000"], "rank": [1]}, "user_id in every row, found 1 without"),
        ({"user_id": ["x"], "item_id": ["i000"], "rank": [1]}, "found none of them"),
        ({"user_id": ["u000"] * 2, "item_id": ["i000"] * 2, "rank": [1, 2]}, "'i000' twice in that of 'u000'"),
    ],
)
def test_unusable_lists_are_refused(dataset: Dataset, tmp_path: Path, columns: dict[str, list], reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=reason):
        GivenLists(written(pa.table(columns), tmp_path), dataset, "theirs")


def test_other_lists_have_another_digest(dataset: Dataset, tmp_path: Path) -> None:
    tables = [recommend(rank(popularity(dataset), dataset, k=k), dataset, k=k) for k in (5, 6)]
    first, again, other = (digest(written(table, tmp_path)) for table in (tables[0], tables[0], tables[1]))
    assert first == again != other
