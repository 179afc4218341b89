"""Flags of parameters: one per field at any depth; flags over a file over the environment over the defaults."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from flows.cli.run import VERBS, Commands
from schemas.encoders import EncoderSpec
from schemas.re_extract import PARAMETERS
from tests.support.command_line import cm3, cm3_process

A_ENCODER = EncoderSpec(kind="timm", model="/")


def printed(*arguments: str, folder: Path, kind: str = "catalogue") -> BaseModel:
    """The parameters that `cm3 config` prints."""
    place = ("--raw", ".") if kind == "catalogue" else ()
    answer = cm3("config", kind, *place, *arguments, "--json", store=folder)
    assert answer.returncode == 0, answer.stderr
    return PARAMETERS[kind](**json.loads(answer.stdout))


def value(model: Any, field: str) -> Any:
    for part in field.split("."):
        model = model[part] if isinstance(model, dict) else getattr(model, part)
    return model


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        (("--trainer.gamma", "0.5"), "trainer.gamma", 0.5),
        (("--trainer", '{"gamma": 0.3}', "--trainer.layers", "3"), "trainer.gamma", 0.3),
        (("--trainer", '{"gamma": 0.3}', "--trainer.layers", "3"), "trainer.layers", 3),
        (("--trainer.gamma", "0.7", "--trainer", '{"gamma": 0.3}'), "trainer.gamma", 0.7),
        (("--trainer.item-weights.warm-kept", "0.8"), "trainer.item_weights.warm_kept", 0.8),
        (("--trainer.item-weights", "null"), "trainer.item_weights", None),
        (("--trainer.filter-weight", "null"), "trainer.filter_weight", None),
        (("--no-trainer.fusion",), "trainer.fusion", False),
        (("--images.allowed-hosts", "a", "--images.allowed-hosts", "b:80"), "images.allowed_hosts", ("a", "b:80")),
        (("--trainer.evaluation.cutoffs", "[20, 30]"), "trainer.evaluation.cutoffs", (20, 30)),
        (("--similarity.weights", "a=0.3", "--similarity.weights", "b=1"), "similarity.weights", {"a": 0.3, "b": 1}),
        (("--trainer.modality-weights", "null"), "trainer.modality_weights", None),
        (("--similarity.weights", '{"clip": 2}'), "similarity.weights", {"clip": 2}),
        (("--similarity.weights", ""), "similarity.weights", {}),
        (("--features", "clip", "--features", "sentence"), "features", ("clip", "sentence")),
        (("--features", "clip"), "features", ("clip",)),
        (("--features", '["clip"]'), "features", ("clip",)),
        (("--missing", ""), "missing", ()),
        (("--missing", r"\N", "--missing", 'a"b', "--missing", "a,b"), "missing", (r"\N", 'a"b', "a,b")),
        (("--item-columns.item-id", "sku"), "item_columns.item_id", "sku"),
        (("--item-columns.title", 'Name, "long"'), "item_columns.title", 'Name, "long"'),
        (("--item-columns.title", "2024"), "item_columns.title", "2024"),
        (("--item-columns.title", "a", "--item-columns.title", "b"), "item_columns.title", ("a", "b")),
        (("--contracts.items-lost.limit", "0.5"), "contracts.items_lost.level", "stop"),
        (("--contracts.nulls.of", "items.title=0.01"), "contracts.nulls.of", {"items.title": 0.01}),
        (("--retrain.items", "0.5"), "retrain.items", 0.5),
        (("--limit", "3"), "limit", 3),
        (("--encoders.a_b.kind", "timm", "--encoders.a_b.model=/"), "encoders.a_b.model", "/"),
        (("--encoders.a.kind=timm", "--encoders", '{"a": {"model": "/"}}'), "encoders", {"a": A_ENCODER}),
    ],
)  # fmt: skip
def test_a_flag_sets_its_field(tmp_path: Path, arguments: tuple[str, ...], field: str, expected: object) -> None:
    assert value(printed(*arguments, folder=tmp_path), field) == expected


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field's flag by the model's JSON schema: an account that knows nothing of how flags are made."""
    schema = model.model_json_schema()

    def walk(node: dict[str, Any], path: str) -> Iterator[str]:
        options = [node, *node.get("anyOf", []), *node.get("allOf", [])]
        models = [schema["$defs"][o["$ref"].rsplit("/", 1)[1]] for o in options if "$ref" in o]
        nested = next((m for m in models if "properties" in m), None)
        if path:
            yield f"--{path}"
        for name, inner in (nested or (node if not path else {})).get("properties", {}).items():
            yield from walk(inner, f"{path}.{name}".lstrip(".").replace("_", "-"))

    return walk(schema, path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_of_every_source_has_a_flag_of_its_own(verb: str) -> None:
    models, _ = VERBS[verb]
    for kind, model in models.items():
        flags = {name for parameter in Commands(verb)[kind].params for name in parameter.opts}
        expected = set(leaves(model)) - {"--kind"}
        assert len(expected) > 100
        assert expected <= flags, expected - flags


def test_flags_go_before_the_file_the_file_before_the_environment_and_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        "raw: ./shop\nstore: of-the-file\ntrainer: {gamma: 0.5, layers: 2}\nretrain: {items: 1}\nfeatures: [clip]\n"
    )
    file = printed("--config", "shop.yaml", folder=tmp_path)
    assert (value(file, "store"), value(file, "trainer.gamma"), value(file, "trainer.dim")) == ("of-the-file", 0.5, 64)
    both = printed("--config", "shop.yaml", "--trainer.gamma", "0.7", "--store", "flag", folder=tmp_path)
    assert (value(both, "store"), value(both, "trainer.gamma"), value(both, "trainer.layers")) == ("flag", 0.7, 2)
    assert value(both, "features") == ("clip",)
    assert value(printed(folder=tmp_path), "store") == str(tmp_path), "CM3_STORE"


def test_an_empty_flag_empties_the_mapping_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("raw: .\nname: shop\nrating_values: {view: 1, cart: 2}\n")
    both = printed("--config", "shop.yaml", "--rating-values", "", folder=tmp_path)
    assert value(both, "rating_values") == {}


def test_what_config_prints_is_a_file_that_gives_the_same(tmp_path: Path) -> None:
    arguments = ("--name", "shop", "--missing", r"\N", "--missing", "NaN", "--similarity.edges", "mutual")
    (tmp_path / "a.yaml").write_text(cm3("config", "catalogue", "--raw", ".", *arguments, store=tmp_path).stdout)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["kind"] == "catalogue"
    assert printed("--config", "a.yaml", folder=tmp_path) == printed(*arguments, folder=tmp_path)
    again = cm3("config", "file", "a.yaml", store=tmp_path)
    assert again.stdout == (tmp_path / "a.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trainer.gamma", "x"), "--trainer.gamma: Input should be a valid number, unable to parse string"),
        (("--trainer.score", "dott"), "--trainer.score: Input should be 'dot' or 'cosine' (given: 'dott')"),
        (("--trainer.dim", "0"), "bad.yaml: trainer.gama: there is no such parameter; did you mean gamma"),
        (("--encoders.x.kind", "timm"), "--encoders.x.model: must be given"),
        (("--demo.items", "41"), "bad.yaml: demo.users: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_is_named_as_it_was_given(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.yaml").write_text("trainer: {gama: 1}\ndemo: {users: many}\n")
    answer = cm3("plan", "demo", "--config", "bad.yaml", *arguments, store=tmp_path)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert "See `cm3 plan demo --help`" in answer.stderr


def test_a_file_about_another_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("kind: catalogue\nraw: .\n")
    answer = cm3("run", "demo", "--config", "shop.yaml", store=tmp_path)
    assert answer.returncode == 1
    assert "shop.yaml: its kind is 'catalogue', not 'demo'" in answer.stderr


def test_the_help_shows_what_most_runs_give_before_the_groups(tmp_path: Path) -> None:
    text = cm3("run", "catalogue", "--help", store=tmp_path).stdout
    order = [
        "Examples:",
        "--raw ",
        "--items ",
        "--item-columns.item-id",
        "--features ",
        "trainer: CM3's",
        "--trainer.dim ",
    ]
    assert sorted(order, key=text.index) == order
    assert text.index("--features ") < text.index("--trainer.max-epochs") < text.index("trainer: CM3's")
    assert text.count("--trainer.dim ") == 1


@pytest.mark.slow
def test_no_flag_is_cut_in_a_narrow_terminal(tmp_path: Path) -> None:
    text = cm3_process("run", "catalogue", "--help", store=tmp_path, COLUMNS="60").stdout
    flags = {name for parameter in Commands("run")["catalogue"].params for name in parameter.opts}
    assert flags <= set(re.findall(r"--[^\s/]+", text))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cm3 run demo --trainer.ga", ["--trainer.gamma"]),
        ("cm3 run demo --trainer.calibration f", ["fused", "frozen"]),
        ("cm3 run cat", ["catalogue"]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_shell_completes_sources_flags_and_values(tmp_path: Path, words: str, expected: list[str]) -> None:
    variables = {"_CM3_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert cm3_process(store=tmp_path, **variables).stdout.split() == expected


@pytest.mark.slow
def test_re_extract_says_what_changed_and_whether_it_trained(tmp_path: Path) -> None:
    quick = ("--demo.items", "40", "--demo.users", "60", "--features", "sentence", "--trainer.max-epochs", "1")
    first = cm3("re-extract", "demo", *quick, store=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "there is no earlier training" in first.stdout
    second = cm3("re-extract", "demo", *quick, store=tmp_path)
    assert "Not trained: 0.00% of the items" in second.stdout, second.stderr
