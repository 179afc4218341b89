"""What `cm3 compare`, `compare-encoders` and `tune` make of flags and JSON; tests/flows/cli/test_main.py runs them."""

from pathlib import Path
from typing import Any

import pytest

from flows import encoder_comparison, research
from schemas.errors import UserError
from tests.support.command_line import cm3

TRAINED = {"gamma": 3.0, "batch_size": 77, "item_weights": {"judged_items": 77}}
"""What the last run says of its trainer."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that the commands come to; nothing is trained."""
    configs: list[Any] = []

    def keep(store: Any, dataset: str, config: Any) -> Any:
        configs.append(config)
        raise UserError("kept")

    monkeypatch.setattr(research, "trained_with", lambda *_, **__: TRAINED)
    monkeypatch.setattr(research, "compare", keep)
    monkeypatch.setattr(research, "tune", keep)
    monkeypatch.setattr(encoder_comparison, "run", keep)
    return configs


def test_a_comparison_takes_flags_over_json_over_the_last_run(asked: list[Any], tmp_path: Path) -> None:
    flags = ("--cm3.gamma", "0.5", "--cm3.item-weights.alphas", "1", "--cm3.item-weights.alphas", "2")
    json = ("--cm3", '{"gamma": 1, "layers": 3}', "--overrides", '{"item-knn": {"neighbors": 7}, "bpr": {"dim": 8}}')
    overrides = ("--overrides.item-knn.shrinkage", "2", "--overrides.lightgcn.layers", "4")
    assert "kept" in cm3("compare", "demo", *flags, *json, *overrides, store=tmp_path).stderr
    (config,) = asked
    assert (config.cm3.gamma, config.cm3.layers, config.cm3.batch_size) == (0.5, 3, 77)
    assert (config.cm3.item_weights.alphas, config.cm3.item_weights.judged_items) == ((1.0, 2.0), 77)
    assert config.overrides == {
        "item-knn": {"neighbors": 7, "shrinkage": 2.0},
        "bpr": {"dim": 8},
        "lightgcn": {"layers": 4},
    }


def test_a_search_has_the_flags_of_the_model_that_it_tunes(asked: list[Any], tmp_path: Path) -> None:
    flags = ("--base.dim", "16", "--space.layers", "2", "--space.layers", "3")
    assert "kept" in cm3("tune", "demo", "--model", "lightgcn", *flags, store=tmp_path).stderr
    assert "kept" in cm3("tune", "demo", "--space.gamma", "0.5", "--space", '{"layers": [1]}', store=tmp_path).stderr
    assert "kept" in cm3("tune", "demo", "--base.item-weights.warm-kept", "0.5", store=tmp_path).stderr
    nested = TRAINED | {"item_weights": {"judged_items": 77, "warm_kept": 0.5}}
    assert [config.base for config in asked] == [{"dim": 16}, TRAINED, nested]
    assert [config.space for config in asked] == [{"layers": (2, 3)}, {"gamma": (0.5,), "layers": (1,)}, None]
    refused = cm3("tune", "demo", "--model", "lightgcn", "--space.gamma", "1", store=tmp_path)
    assert "No such option: --space.gamma" in refused.stderr


def test_a_comparison_of_encoders_has_the_flags_of_cm3_alone(asked: list[Any], tmp_path: Path) -> None:
    command = ("compare-encoders", "demo", "--encoders", "clip,sentence")
    assert "kept" in cm3(*command, "--cm3.item-weights.warm-kept", "0.5", store=tmp_path).stderr
    (config,) = asked
    assert (config.trainer.cm3.item_weights.warm_kept, config.trainer.cm3.item_weights.judged_items) == (0.5, 77)
    refused = cm3(*command, "--overrides.lightgcn.layers", "2", store=tmp_path)
    assert "No such option: --overrides.lightgcn.layers" in refused.stderr


@pytest.mark.parametrize("flag", ["--cm3.gamma", "--overrides.lightgcn.layers"])
def test_a_flags_value_is_checked_before_any_work(asked: list[Any], tmp_path: Path, flag: str) -> None:
    refused = cm3("compare", "demo", flag, "many", store=tmp_path)
    assert refused.returncode == 1
    assert f"{flag}: Input should be a valid" in refused.stderr
    assert not asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "demo", "--cm3", "[1]", "--cm3.gamma", "1"), "'--cm3': expected names with values"),
        (("compare", "demo", "--overrides", "3"), "'--overrides': expected names with values"),
        (("tune", "demo", "--base", '""', "--base.gamma", "1"), "'--base': expected names with values"),
        (("tune", "demo", "--space", "[1]"), "'--space': expected names with values"),
        (("compare", "demo", "--cm3", "null"), "cm3: expected parameters with values"),
        (("compare-encoders", "demo", "--encoders", "a,b", "--cm3", "null"), "cm3: expected parameters with values"),
    ],
)
def test_json_that_is_no_object_is_refused_before_any_work(
    asked: list[Any], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = cm3(*arguments, store=tmp_path)
    assert refused.returncode in (1, 2)
    assert message in refused.stderr
    assert not asked
