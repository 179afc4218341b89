"""The comparison is fair and complete; the search goes on after a stop and looks at test once."""

from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from pydantic import ValidationError

from schemas.errors import UserError
from schemas.training import CM3Config, ComparisonConfig, ComparisonRow, TuningConfig
from tests.support.world import World
from trainers import compare, recommenders, tune

CM3 = CM3Config(dim=4, max_epochs=2, batch_size=256)
SHORT = {"dim": 4, "max_epochs": 2, "batch_size": 256}


def test_a_comparison_has_a_line_for_each_recommender_and_ablation(world: World, tmp_path: Path) -> None:
    config = ComparisonConfig(
        models=("popularity", "content-knn", "bpr", "cm3"),
        seeds=(0, 1),
        ablations=True,
        cm3=CM3,
        overrides={"bpr": SHORT},
    )
    rows = compare.run(**world.inputs(), output=tmp_path, finished=tmp_path / "f", config=config)  # type: ignore[arg-type]
    lines = {row.model: row for row in rows}
    changed = (
        "no calibration",
        "frozen calibration",
        "no fusion",
        "no prior",
        "no smoothing",
        "no filter",
        "paper's score",
        "as published",
        "image alone",
        "text alone",
    )
    ablations = {f"cm3 {change}" for change in changed}
    assert lines.keys() == {"popularity", "content-knn", "bpr", "cm3"} | ablations
    assert [row.mean for row in rows] == sorted((row.mean for row in rows), reverse=True)
    assert (lines["cm3"].runs, lines["popularity"].runs) == (2, 1)
    assert lines["cm3"].p_value is None
    assert all(0 <= row.p_value <= 1 for row in rows if row.p_value is not None)
    assert lines["cm3 image alone"].parameters < lines["cm3"].parameters
    metrics = pl.read_parquet(tmp_path / "metrics.parquet")
    mine = metrics.filter(model="cm3", split="test", metric="ndcg", k=20)["value"]
    assert mine.mean() == pytest.approx(lines["cm3"].mean)
    assert mine.std() == pytest.approx(lines["cm3"].spread)
    assert pl.read_parquet(tmp_path / "comparison.parquet")["model"].to_list() == [row.model for row in rows]


def test_finished_trainings_are_not_repeated_and_give_the_same_figures(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comparison(output: str, models: tuple[str, ...], finished: str = "finished") -> list[ComparisonRow]:
        config = ComparisonConfig(models=models, seeds=(0, 1), cm3=CM3, overrides={"bpr": SHORT})
        inputs: dict[str, Any] = world.inputs()
        return compare.run(**inputs, output=tmp_path / output, finished=tmp_path / finished, config=config)

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
    unbroken = comparison("third", ("bpr", "cm3", "popularity"), finished="elsewhere")
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
            **world.inputs(),  # type: ignore[arg-type]
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
        ({"overrides": {"popularity": {"l2": 3.0}}}, "popularity: it has no parameters"),
        ({"cm3": CM3.model_copy(update={"modality_weights": {"image": 1.0}})}, "share .* for each of"),
    ],
)
def test_what_would_be_left_out_silently_is_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    config = ComparisonConfig(models=("bpr", "cm3"), seeds=(0,), cm3=CM3, ablations=True).model_copy(update=changes)
    with pytest.raises(UserError, match=reason):
        compare.run(**world.inputs(), output=tmp_path, finished=tmp_path / "f", config=config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ("bpr", "bpr")},
        {"seeds": (0, 0)},
        {"overrides": {"bpr": {"seed": 1}}},
        {"overrides": {"cm3": {"evaluation": {"cutoffs": (20,)}}}},
        {"cm3": {"evaluation": {"cutoffs": (0, 20)}}},
        {"cm3": {"evaluation": {"cold_bounds": (5, 1)}}},
    ],
)
def test_a_comparison_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ComparisonConfig.model_validate(wrong)


def test_a_feature_without_a_share_stands_alone_in_its_ablation(world: World, tmp_path: Path) -> None:
    weighted = CM3.model_copy(update={"modality_weights": {"image": 1.0, "text": 0.0}})
    config = ComparisonConfig(models=("cm3",), seeds=(0,), cm3=weighted, ablations=True)
    rows = compare.run(**world.inputs(), output=tmp_path, finished=tmp_path / "f", config=config)  # type: ignore[arg-type]
    assert "cm3 text alone" in {row.model for row in rows}


def tuning(world: World, output: Path, trials: int, seen: list[int], **changes: Any) -> Any:
    config = TuningConfig(
        model="bpr", trials=trials, base=SHORT, space={"regularization": (0.0, 0.1), "learning_rate": (0.001, 0.1)}
    )
    return tune.run(
        **world.inputs(),  # type: ignore[arg-type]
        output=output,
        config=config.model_copy(update=changes),
        on_trial=lambda number, *_: seen.append(number),
    )


def test_a_search_goes_on_where_it_stopped_and_another_grid_starts_anew(world: World, tmp_path: Path) -> None:
    seen: list[int] = []
    tuning(world, tmp_path, 1, seen)
    result = tuning(world, tmp_path, 4, seen)
    assert seen == [0, 1, 2, 3]
    assert result.finished + result.pruned == 4
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    tried = {tuple(sorted(trial.params.items())) for trial in study.trials}
    assert len(tried) == 4
    assert result.validation == max(trial.value for trial in study.trials if trial.value is not None)
    assert result.config["learning_rate"] == result.best["learning_rate"]
    tuning(world, tmp_path, 1, seen, space={"dim": (2, 4)})
    assert seen[4:] == [0]


def test_a_search_looks_at_test_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    original = tune.evaluate

    def counted(scorer: Any, dataset: Any, split: str, config: Any) -> Any:
        looks.append(split)
        return original(scorer, dataset, split, config)

    monkeypatch.setattr(tune, "evaluate", counted)
    monkeypatch.setattr(recommenders, "evaluate", counted)
    monkeypatch.setattr("trainers.fit.evaluate", counted)
    tuning(world, tmp_path, 2, [])
    assert looks.count("test") == 1
    assert looks[-1] == "test"


def test_a_grid_without_values_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="regularization: no value to try"):
        tuning(world, tmp_path, 1, [], space={"regularization": ()})


def test_a_grid_of_a_parameter_that_is_not_there_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gama"):
        tuning(world, tmp_path, 1, [], space={"gama": (1,)})
