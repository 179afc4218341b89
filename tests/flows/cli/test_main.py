"""The command line as a whole: how it starts, refuses, helps and answers machines."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flows import cli
from pipeline.store import Store
from schemas.run import RunSummary
from tests.support.command_line import cm3, cm3_process

Finished = tuple[Store, RunSummary]
APPLICATION = typer.main.get_command(cli.app)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resolve", "demo/nothing"), "demo has no table 'nothing'"),
        (("resolve", "demo"), "is not DATASET/TABLE"),
        (("show", "other"), "No finished run of 'other'"),
        (("similar", "demo", "no-such-item"), "no-such-item"),
        (
            ("similar", "demo", "D0001", "--k", "999"),
            "k: the graph of demo holds the 10 nearest of each item, 999 were",
        ),
        (("recommend", "demo"), "Name users, or what an unknown user chose"),
        (("recommend", "demo", "nobody"), "demo has no user 'nobody' in version 1"),
        (("run", "amazon", "--category", "Gift_Crads"), "Gift_Cards"),
        (("run", "amazon", "--category", "Gift_Cards", "--raw", "/nowhere"), "/nowhere is not a folder"),
        (("run", "catalogue", "--raw", ".", "--items", "items.exe"), "items: expected a name that ends in"),
        (("run", "demo", "--features", "smell"), "no encoder for smell; allowed: sentence, clip, vision, caption"),
        (("run", "amazon"), "--category: must be given. See `cm3 run amazon --help`."),
        (("run", "demo", "--trainer", '{"gamma": -1}'), "--trainer.gamma: Input should be greater than or equal to 0"),
        (("run", "demo", "--trainer.gamma", "x"), "--trainer.gamma: Input should be a valid number"),
        (("run", "demo", "--trainer", '{"gama": 1}'), "trainer.gama: there is no such parameter; did you mean gamma"),
        (("run", "demo", "--trainer", "[1]"), "trainer: expected parameters with values"),
        (("run", "demo", "--store", __file__), f"Could not write scratch files to {__file__}: [Errno 20] Not a dir"),
        (("run", "file", "nothing.yaml"), "nothing.yaml: No such file or directory. Give a YAML file"),
        (("compare", "demo", "--models", "lightgnc"), "'random', 'vbpr'], found 'lightgnc'"),
        (("tune", "demo", "--space", '{"gamma": 3}'), "space.gamma: expected a list"),
        (("versions", "other"), "other has no registered version"),
        (("versions", "demo", "--store", __file__), f"Could not write the registry to {__file__}"),
        (("gc", "other"), "No data set 'other'"),
        (("diff", "demo", "1", "7"), "demo has no registered version '7'; registered: 1"),
    ],
)
def test_a_mistake_is_one_paragraph_and_status_1(finished: Finished, arguments: tuple[str, ...], message: str) -> None:
    answer = cm3(*arguments, store=finished[0].uri)
    assert answer.returncode == 1
    assert message in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "demo", "--trainer", "{bad"),
            "'--trainer': expected JSON within single quotes, such as '{\"name\": 1}'",
        ),
        (("compare", "demo", "--cm3", "{bad"), "'--cm3': expected JSON within single quotes"),
        (("shwo",), "No such command 'shwo'. Did you mean 'show'? See `cm3 --help`."),
        (("run", "dmeo"), "No such command 'dmeo'. Did you mean 'demo'? See `cm3 run --help`."),
        (("show", "--jsno"), "No such option: --jsno"),
        (("run", "demo", "--trainer.gama", "1"), "No such option: --trainer.gama"),
        (("run", "demo", "--similarity.weights", "clip"), "'--similarity.weights': expected NAME=VALUE, or JSON"),
    ],
)
def test_a_mistyped_command_line_is_one_paragraph_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    answer = cm3(*arguments, store=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_process_prints_a_mistake_without_a_stack_trace_and_ends_with_its_status(tmp_path: Path) -> None:
    answer = cm3_process("show", "demo", store=tmp_path)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: No finished run of 'demo'")
    assert cm3_process("shwo", store=tmp_path).returncode == 2


DOCUMENTS = {
    ("show",): "demo",
    ("show", "demo"): "stages",
    ("resolve", "demo/items"): "lineage",
    ("resolve", "demo/items@champion"): "path",
    ("export", "demo/embeddings/items", "exported"): "vectors",
    ("promote", "demo", "1"): "number",
    ("gc", "demo"): "versions",
    ("recommend", "demo", "--items", "D0001,D0002"): "answers",
    ("tune", "demo", "--trials", "1", "--base", '{"max_epochs": 1, "dim": 8}'): "best",
}
"""Command → a key of the document that it prints."""
LISTS = {
    ("versions", "demo"): "reason",
    ("similar", "demo", "D0001"): "neighbor_id",
    ("compare", "demo", "--models", "popularity"): "metrics",
}
"""Command → a key of each document in the list that it prints."""


@pytest.mark.parametrize("arguments", [*DOCUMENTS, *LISTS], ids=" ".join)
def test_with_json_standard_output_is_one_document_and_nothing_else(
    finished: Finished, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    words = tuple(str(tmp_path / word) if word == "exported" else word for word in arguments)
    answer = cm3(*words, "--json", store=finished[0].uri)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert (DOCUMENTS | LISTS)[arguments] in (document[0] if arguments in LISTS else document)


def test_an_error_leaves_standard_output_empty_for_a_machine(finished: Finished) -> None:
    answer = cm3("versions", "other", "--json", store=finished[0].uri)
    assert (answer.returncode, answer.stdout) == (1, "")


GROUPS = ("run", "extract", "re-extract", "plan", "plan-extract", "config")
"""Commands that have one command per source."""


def test_every_command_that_ends_answers_machines() -> None:
    commands: dict[str, Any] = {}
    for name, command in APPLICATION.commands.items():
        parts = getattr(command, "commands", None)
        commands |= {name: command} if parts is None else {f"{name} {part}": parts[part] for part in parts}
    without = {name for name, command in commands.items() if not any("--json" in p.opts for p in command.params)}
    assert without == {"serve", "up"}


@pytest.mark.parametrize("command", APPLICATION.commands)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    arguments = (command, "amazon", "--help") if command in GROUPS else (command, "--help")
    answer = cm3(*arguments, store=tmp_path)
    assert answer.returncode == 0
    assert f"cm3 {command}" in answer.stdout


def test_without_arguments_the_help_lists_every_command(tmp_path: Path) -> None:
    answer = cm3(store=tmp_path)
    assert answer.returncode == 2
    assert all(f" {command} " in answer.stdout for command in APPLICATION.commands)


def test_an_interruption_says_that_the_work_is_kept_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.cli.look.opened", interrupted)
    answer = cm3("show", "demo", store=tmp_path)
    assert answer.returncode == 130
    assert "Finished work is kept: give the same command again" in answer.stderr
    assert "Traceback" not in answer.stderr


HEAVY = ("torch", "transformers", "prefect", "mlflow.server", "flask", "uvicorn", "matplotlib", "sklearn")
"""Of no use to a command that only looks; each takes seconds or hundreds of megabytes."""
WITHOUT_MLFLOW = (*HEAVY, "mlflow", "sqlalchemy", "polars", "botocore", "aiohttp")
ABSENT = {
    ("--help",): (*WITHOUT_MLFLOW, "pyarrow", "numpy", "schemas.run", "schemas.training"),
    ("run", "--help"): WITHOUT_MLFLOW,
    ("resolve", "demo/items"): WITHOUT_MLFLOW,
    ("show", "demo"): WITHOUT_MLFLOW,
    ("similar", "demo", "D0001"): WITHOUT_MLFLOW,
    ("recommend", "demo", "--items", "D0001"): HEAVY,
    ("versions", "demo"): HEAVY,
}
"""Command → modules that it must not import."""
IMPORTED = """
import sys
from flows import cli
try:
    cli.main()
except SystemExit as ended:
    print(*sys.modules, sep="\\n", file=sys.stderr)
    raise
"""


@pytest.mark.parametrize("arguments", ABSENT, ids=" ".join)
def test_a_command_that_looks_starts_without_the_libraries_of_the_stages(
    finished: Finished, arguments: tuple[str, ...]
) -> None:
    command = [
        sys.executable,
        "-c",
        IMPORTED,
        *arguments,
        *([] if "--help" in arguments else ["--store", finished[0].uri]),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(process.stderr.splitlines())
    assert "typer" in imported
    assert imported.isdisjoint(ABSENT[arguments]), imported & set(ABSENT[arguments])
