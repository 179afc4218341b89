"""A comparison is fair and complete, and goes on where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from schemas.errors import UserError
from schemas.training import CM3Config, ComparisonConfig, ComparisonRow, EvaluationConfig
from tests.support.world import World
from trainers import compare, compare_encoders, recommenders
from trainers.baselines.popularity import popularity
from trainers.data import load
from trainers.evaluation import rank, recommend
from trainers.hidden_items import hide

CM3 = CM3Config(dim=4, max_epochs=2, batch_size=256)
SHORT = {"dim": 4, "max_epochs": 2, "batch_size": 256}


@pytest.mark.slow
def test_a_comparison_has_a_row_for_each_recommender_and_ablation(world: World, tmp_path: Path) -> None:
    config = ComparisonConfig(
        models=("popularity", "content-knn", "bpr", "cm3"),
        seeds=(0, 1),
        ablations=True,
        cm3=CM3,
        overrides={"bpr": SHORT},
    )
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    by_label = {row.model: row for row in rows}
    changed = (
        "no calibration",
        "fused calibration",
        "no fusion",
        "no prior",
        "no smoothing",
        "no filter",
        "no item weights",
        "paper's score",
        "as published",
        "image alone",
        "text alone",
    )
    ablations = {f"cm3 {change}" for change in changed}
    assert by_label.keys() == {"popularity", "content-knn", "bpr", "cm3"} | ablations
    assert [row.mean for row in rows] == sorted((row.mean for row in rows), reverse=True)
    assert (by_label["cm3"].runs, by_label["popularity"].runs) == (2, 1)
    assert by_label["cm3"].p_value is None
    assert all(0 <= row.p_value <= 1 for row in rows if row.p_value is not None)
    assert all(row.p_holm is None or row.p_holm >= (row.p_value or 0) for row in rows)
    assert by_label["bpr"].ahead == pytest.approx(by_label["cm3"].mean / by_label["bpr"].mean - 1)
    assert all(row.low is not None and row.low < row.mean < (row.high or 0) for row in rows)
    assert by_label["cm3 image alone"].parameters < by_label["cm3"].parameters
    metrics = pl.read_parquet(tmp_path / "metrics.parquet")
    mine = metrics.filter(model="cm3", split="test", metric="ndcg", k=20)["value"]
    assert mine.mean() == pytest.approx(by_label["cm3"].mean)
    assert mine.std() == pytest.approx(by_label["cm3"].spread)
    assert pl.read_parquet(tmp_path / "comparison.parquet")["model"].to_list() == [row.model for row in rows]


def test_a_recommender_and_its_copy_do_not_differ(world: World, tmp_path: Path) -> None:
    alone = CM3.model_copy(update={"item_weights": None})
    config = ComparisonConfig(models=("cm3",), seeds=(0,), cm3=alone, ablations=True)
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    copy = next(row for row in rows if row.model == "cm3 no item weights")
    assert (copy.p_value, copy.p_holm, copy.ahead, copy.ahead_low, copy.ahead_high) == (1, 1, 0, 0, 0)


def test_recommenders_that_see_content_say_how_they_find_hidden_items(world: World, tmp_path: Path) -> None:
    config = ComparisonConfig(models=("random", "popularity", "content-knn", "item-weights"))
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    cold = {row.model: row.cold for row in rows if row.cold}
    assert cold.keys() == {"random", "content-knn", "item-weights"}
    metrics = pl.read_parquet(tmp_path / "metrics.parquet").filter(model="content-knn", metric="recall", k=20)
    for split in ("cold", "cold_only"):
        assert metrics.filter(split=split)["value"].item() == cold["content-knn"][split]["recall@20"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()}
    again = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    assert [row.cold for row in again] == [row.cold for row in rows]
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()}


def test_where_hiding_items_leaves_nothing_to_choose_on_the_weights_say_nothing_of_them(
    world: World, tmp_path: Path
) -> None:
    hidden = hide(load(world.tables))
    assert hidden is not None
    name = hidden.dataset.items[hidden.items[0]]
    user = next(user for user, item, split in world.events if (item, split) == (name, "train"))
    parts = {(user, name): "valid"}  # the one validation interaction is with an item that is hidden
    world.events = [
        (user, item, parts.get((user, item), "test" if split == "test" else "train"))
        for user, item, split in world.events
    ]
    world.write(tmp_path / "last")
    assert not len(hide(load(world.tables)).dataset.valid)  # type: ignore[union-attr]
    config = ComparisonConfig(models=("content-knn", "item-weights"))
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    assert {row.model for row in rows if row.cold} == {"content-knn"}
    assert compare_encoders._cold("image", 0, load(world.tables), config, tmp_path / "f") == {}


def test_somebody_elses_lists_stand_beside_ours(world: World, tmp_path: Path) -> None:
    dataset = load(world.tables)
    pq.write_table(recommend(rank(popularity(dataset), dataset, k=50), dataset, k=50), tmp_path / "theirs.parquet")
    config = ComparisonConfig(models=("popularity",), lists={"theirs": str(tmp_path / "theirs.parquet")})
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    theirs, ours = (next(row for row in rows if row.model == name) for name in ("theirs", "popularity"))
    assert theirs.metrics == ours.metrics
    assert (theirs.validation, theirs.mean, theirs.runs) == (ours.validation, ours.mean, 1)
    same_name = config.model_copy(update={"lists": {"popularity": str(tmp_path / "theirs.parquet")}})
    with pytest.raises(UserError, match="already"):
        compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=same_name)


def test_the_column_of_validation_is_of_everyone_whoever_chose(world: World, tmp_path: Path) -> None:
    rule = EvaluationConfig(judged_users=7)
    config = ComparisonConfig(models=("popularity",), cm3=CM3.model_copy(update={"evaluation": rule}))
    (row,) = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    metrics = pl.read_parquet(tmp_path / "metrics.parquet").filter(split="valid", metric="ndcg", k=20)
    assert row.validation == metrics["value"].item()


def test_items_that_nobody_chose_are_not_judged_among(small_world: Callable[..., World], tmp_path: Path) -> None:
    world = small_world(items=40)
    world.events = [event for event in world.events if event[1] != "i007"]
    world.write(tmp_path / "without")
    config = ComparisonConfig(models=("popularity",))
    compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    metrics = pl.read_parquet(tmp_path / "metrics.parquet")
    shares = metrics.filter(metric="coverage", split="test")["value"] * 39
    assert (shares - shares.round()).abs().max() < 1e-9  # of 39 items, not of 40


def test_a_comparison_that_names_no_recommender_compares_all() -> None:
    assert compare.name_all(ComparisonConfig()).models == tuple(recommenders.RECOMMENDERS)
    assert compare.name_all(ComparisonConfig(models=("ease",))).models == ("ease",)


def test_finished_trainings_are_not_repeated_and_give_the_same_figures(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comparison(output: str, models: tuple[str, ...], finished: str = "finished") -> list[ComparisonRow]:
        config = ComparisonConfig(models=models, seeds=(0, 1), cm3=CM3, overrides={"bpr": SHORT})
        return compare.run(tables=world.tables, output=tmp_path / output, finished=tmp_path / finished, config=config)

    class StoppedError(Exception):
        pass

    fitted: list[str] = []
    original = recommenders.Recommender.fit

    def fit(self: recommenders.Recommender, *arguments: Any, **named: Any) -> Any:
        if len(fitted) == 3 and self.name == "cm3":
            raise StoppedError
        fitted.append(self.name)
        return original(self, *arguments, **named)

    monkeypatch.setattr(recommenders.Recommender, "fit", fit)
    with pytest.raises(StoppedError):
        comparison("first", ("bpr", "cm3"))
    assert fitted == ["bpr", "bpr", "cm3"]
    fitted += ["begins again"]
    went_on = comparison("second", ("bpr", "cm3", "popularity"))
    assert fitted[4:] == ["cm3", "popularity"]
    unbroken = comparison("third", ("bpr", "cm3", "popularity"), finished="other")
    assert [row.model_dump(exclude={"seconds"}) for row in went_on] == [
        row.model_dump(exclude={"seconds"}) for row in unbroken
    ]
    tables = [pl.read_parquet(tmp_path / run / "metrics.parquet") for run in ("second", "third")]
    assert tables[0].equals(tables[1])


def test_a_misspelt_parameter_is_refused_before_anything_is_trained(world: World, tmp_path: Path) -> None:
    trained: list[str] = []
    config = ComparisonConfig(models=("bpr", "directau"), overrides={"bpr": SHORT, "directau": {"gama": 1.0}})
    with pytest.raises(UserError, match="gama"):
        compare.run(
            tables=world.tables,
            output=tmp_path,
            finished=tmp_path / "finished",
            config=config,
            on_run=lambda model, *_: trained.append(model),
        )
    assert not trained


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overrides": {"bprr": SHORT}}, "bprr"),
        ({"overrides": {"popularity": {"l2": 3.0}}}, r"popularity: l2: .* Its parameters: none"),
        ({"cm3": CM3.model_copy(update={"modality_weights": {"image": 1.0}})}, "share .* for each of"),
    ],
)
def test_what_would_be_left_out_silently_is_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    config = ComparisonConfig(models=("bpr", "cm3"), seeds=(0,), cm3=CM3, ablations=True).model_copy(update=changes)
    with pytest.raises(UserError, match=reason):
        compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)


@pytest.mark.slow
def test_a_feature_without_a_share_stands_alone_in_its_ablation(world: World, tmp_path: Path) -> None:
    weighted = CM3.model_copy(update={"modality_weights": {"image": 1.0, "text": 0.0}})
    config = ComparisonConfig(models=("cm3",), seeds=(0,), cm3=weighted, ablations=True)
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    assert "cm3 text alone" in {row.model for row in rows}
