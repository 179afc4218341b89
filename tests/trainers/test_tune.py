"""A search goes on after a stop and looks at test once."""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest

from schemas.baselines import BPRConfig
from schemas.errors import UserError
from schemas.training import TuningConfig
from tests.support.world import World
from trainers import checkpoint, recommenders, tune

SHORT = {"dim": 4, "max_epochs": 2, "batch_size": 256}


def tuning(world: World, output: Path, trials: int, seen: list[int], **changes: Any) -> Any:
    config = TuningConfig(
        model="bpr", trials=trials, base=SHORT, space={"regularization": (0.0, 0.1), "learning_rate": (0.001, 0.1)}
    )
    return tune.run(
        tables=world.tables,
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


@pytest.mark.parametrize("changed", ["code", "default"])
def test_trials_of_other_code_or_other_defaults_are_not_mixed_in(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    seen: list[int] = []
    tuning(world, tmp_path, 1, seen)

    class Patient(BPRConfig):
        patience: int = 7

    bpr = recommenders.RECOMMENDERS["bpr"]
    if changed == "default":
        monkeypatch.setitem(recommenders.RECOMMENDERS, "bpr", dataclasses.replace(bpr, config=Patient))
    else:
        monkeypatch.setattr(checkpoint, "FORMAT", 0)
    tuning(world, tmp_path, 1, seen)
    assert seen == [0, 0]


def test_a_search_looks_at_test_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    original = tune.evaluate

    def counted(scorer: Any, dataset: Any, split: str, config: Any) -> Any:
        looks.append(split)
        return original(scorer, dataset, split, config)

    monkeypatch.setattr(tune, "evaluate", counted)
    monkeypatch.setattr("trainers.evaluation.evaluate", counted)  # of `selection`, which everything else uses
    tuning(world, tmp_path, 2, [])
    assert looks.count("test") == 1
    assert looks[-1] == "test"


def test_a_grid_without_values_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="regularization: no value to try"):
        tuning(world, tmp_path, 1, [], space={"regularization": ()})


def test_a_grid_of_a_parameter_that_is_not_there_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gama"):
        tuning(world, tmp_path, 1, [], space={"gama": (1,)})
