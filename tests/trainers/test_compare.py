"""A comparison is fair and complete, and goes on where it stopped."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from schemas.errors import UserError
from schemas.training import CM3Config, ComparisonConfig, ComparisonRow
from tests.support.world import World
from trainers import compare, recommenders

CM3 = CM3Config(dim=4, max_epochs=2, batch_size=256)
SHORT = {"dim": 4, "max_epochs": 2, "batch_size": 256}


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
        "frozen calibration",
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
    assert by_label["cm3 image alone"].parameters < by_label["cm3"].parameters
    metrics = pl.read_parquet(tmp_path / "metrics.parquet")
    mine = metrics.filter(model="cm3", split="test", metric="ndcg", k=20)["value"]
    assert mine.mean() == pytest.approx(by_label["cm3"].mean)
    assert mine.std() == pytest.approx(by_label["cm3"].spread)
    assert pl.read_parquet(tmp_path / "comparison.parquet")["model"].to_list() == [row.model for row in rows]


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


def test_a_feature_without_a_share_stands_alone_in_its_ablation(world: World, tmp_path: Path) -> None:
    weighted = CM3.model_copy(update={"modality_weights": {"image": 1.0, "text": 0.0}})
    config = ComparisonConfig(models=("cm3",), seeds=(0,), cm3=weighted, ablations=True)
    rows = compare.run(tables=world.tables, output=tmp_path, finished=tmp_path / "f", config=config)
    assert "cm3 text alone" in {row.model for row in rows}
