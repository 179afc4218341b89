"""The command line as a person uses it."""

import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

import duckdb
import pytest
import typer

from flows import cli
from pipeline.store import Store
from schemas.run import RunSummary
from tests.flows.conftest import cm3

Finished = tuple[Store, RunSummary]
QUICK_DEMO = (
    "--demo", '{"items": 40, "users": 60}', "--features", "sentence", "--trainer", '{"max_epochs": 2, "dim": 8}',
)  # fmt: skip


def test_resolve_prints_a_path_that_duckdb_reads(finished: Finished) -> None:
    store, _ = finished
    path = cm3("resolve", "demo/embeddings/items@champion", store=store.uri).stdout.strip()
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall()[0][0] > 0


def test_show_lists_data_sets_and_the_last_run(finished: Finished) -> None:
    store, _ = finished
    assert "demo" in cm3("show", store=store.uri).stdout
    shown = cm3("show", "demo", store=store.uri).stdout
    assert "features/clip" in shown
    assert "NDCG@20" in shown
    assert RunSummary.model_validate_json(cm3("show", "demo", "--json", store=store.uri).stdout) is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resolve", "demo/nothing"), "demo has no table 'nothing'"),
        (("resolve", "demo"), "is not DATASET/TABLE"),
        (("show", "other"), "No finished run of 'other'"),
        (("similar", "demo", "no-such-item"), "no-such-item"),
        (("run", "amazon", "--category", "Gift_Crads"), "Gift_Cards"),
        (("run", "amazon", "--category", "Gift_Cards", "--raw", "/nowhere"), "/nowhere is not a folder"),
        (("run", "catalogue", "--raw", ".", "--items", "items.exe"), "items: expected a name that ends in"),
        (("run", "demo", "--features", "smell"), "no encoder for smell; allowed: sentence, clip, vision, caption"),
        (("run", "demo", "--trainer", '{"gamma": -1}'), "trainer.gamma"),
        (("run", "demo", "--trainer", '{"gama": 1}'), "trainer.gama: there is no such parameter; did you mean gamma"),
        (("run", "demo", "--trainer", "[1]"), "trainer: expected parameters with values"),
        (("run", "demo", "--store", __file__), f"Could not write scratch files to {__file__}: [Errno 20] Not a dir"),
        (("run", "file", "nothing.yaml"), "nothing.yaml: No such file or directory. Give a YAML file"),
        (("compare", "demo", "--models", "lightgnc"), "'lightgcn', 'popularity', 'vbpr'], found 'lightgnc'"),
        (("tune", "demo", "--space", '{"gamma": 3}'), "space.gamma: expected a list"),
        (("versions", "other"), "other has no registered version"),
        (("versions", "demo", "--store", __file__), f"Could not write the registry to {__file__}"),
        (("gc", "other"), "No data set 'other'"),
        (("diff", "demo", "1", "7"), "demo has no registered version '7'; registered: 1"),
    ],
)
def test_a_mistake_is_one_paragraph_and_status_1(finished: Finished, arguments: tuple[str, ...], said: str) -> None:
    done = cm3(*arguments, store=finished[0].uri)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "amazon"), "Missing option '--category'. See `cm3 run amazon --help`."),
        (
            ("run", "demo", "--trainer", "{bad"),
            "'--trainer': expected JSON within single quotes, such as '{\"name\": 1}'",
        ),
        (("compare", "demo", "--cm3", "{bad"), "'--cm3': expected JSON within single quotes"),
        (("shwo",), "No such command 'shwo'. Did you mean 'show'? See `cm3 --help`."),
        (("show", "--jsno"), "No such option: --jsno"),
    ],
)
def test_a_mistyped_command_line_is_one_paragraph_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = cm3(*arguments, store=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_said_without_a_number_of_the_system(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cm3("ui", "--port", str(taken.getsockname()[1]), store=tmp_path)
    assert done.returncode == 1
    assert "cannot be used: Address already in use. Choose another one" in done.stderr


def test_a_remote_store_that_does_not_answer_is_said_in_one_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = cm3("show", "demo", "--store", "s3://nowhere/x", store=tmp_path)
    assert done.returncode == 1
    assert "s3://nowhere/x cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


MACHINE = {
    ("show",): "demo",
    ("show", "demo"): "stages",
    ("resolve", "demo/items"): "lineage",
    ("resolve", "demo/items@champion"): "path",
    ("export", "demo/embeddings/items", "exported"): "vectors",
    ("promote", "demo", "1"): "number",
    ("gc", "demo"): "versions",
    ("tune", "demo", "--trials", "1", "--base", '{"max_epochs": 1, "dim": 8}'): "best",
}
"""Command → a key of the document it prints."""
LISTS = {
    ("versions", "demo"): "reason",
    ("similar", "demo", "D0001"): "neighbor_id",
    ("compare", "demo", "--models", "popularity"): "metrics",
}
"""Command → a key of each of the documents in the list it prints."""


@pytest.mark.parametrize("arguments", [*MACHINE, *LISTS], ids=" ".join)
def test_with_json_standard_output_is_one_document_and_nothing_else(
    finished: Finished, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    words = tuple(str(tmp_path / word) if word == "exported" else word for word in arguments)
    done = cm3(*words, "--json", store=finished[0].uri)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (MACHINE | LISTS)[arguments] in (found[0] if arguments in LISTS else found)


def test_an_error_leaves_standard_output_empty_for_a_machine(finished: Finished) -> None:
    done = cm3("versions", "other", "--json", store=finished[0].uri)
    assert (done.returncode, done.stdout) == (1, "")


def test_every_command_but_ui_answers_machines() -> None:
    known = typer.main.get_command(cli.app).commands
    commands = {**{name: known[name] for name in known if name != "run"}, **known["run"].commands}
    without = {name for name, command in commands.items() if not any("--json" in p.opts for p in command.params)}
    assert without == {"ui"}


def test_a_run_on_a_terminal_shows_bars_with_rate_and_time_left(tmp_path: Path) -> None:
    shown, status = on_terminal("run", "demo", *QUICK_DEMO, store=tmp_path)
    assert status == 0, shown
    for step in ("images", "features/sentence", "training, at most"):
        assert re.search(rf"{step} ━+.* \d+/\d+ .*/\w+ \d\d:\d\d left", shown), f"{step}: {shown[-4000:]}"
    assert "epoch 1:" not in shown, "a bar tells of the epochs"


def test_a_run_without_a_terminal_logs_plain_lines_and_answers_a_machine(tmp_path: Path) -> None:
    done = cm3("run", "demo", *QUICK_DEMO, "--json", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(RunSummary.model_validate_json(done.stdout).report).is_file()
    assert "\x1b" not in done.stderr
    assert "━" not in done.stderr
    assert "cm3 epoch 1:" in done.stderr


def test_a_path_is_never_broken_over_lines(finished: Finished) -> None:
    shown = cm3("show", "demo", store=finished[0].uri).stdout
    report = next(line for line in shown.splitlines() if line.startswith("report:"))
    assert Path(report.split()[1]).is_file()


def on_terminal(*arguments: str, store: Path) -> tuple[str, int]:
    """What the command line writes to a terminal of 80 columns, without its colours and movements; and its status."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "cm3"), *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment | {"CM3_STORE": str(store), "TERM": "xterm-256color"}, cwd=store,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end was closed
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r", "\n"), process.wait(60)


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "show",
        "resolve",
        "versions",
        "similar",
        "diff",
        "export",
        "promote",
        "rollback",
        "gc",
        "compare",
        "tune",
        "ui",
    ],
)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    arguments = ("run", "amazon", "--help") if command == "run" else (command, "--help")
    shown = cm3(*arguments, store=tmp_path)
    assert shown.returncode == 0
    assert f"cm3 {command}" in shown.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raw: .\nnam: shop", "nam: there is no such parameter; did you mean name"),
        ("kind: shop", "kind 'shop' is none of amazon, catalogue"),
        ("- a list", "expected `name: value` lines, found list"),
        ("raw: [\n", "run.yaml, line 2: expected YAML"),
        ("raw: a\nname: x\nraw: b\n", 'run.yaml, line 3: expected YAML; found duplicate key "raw"'),
        ("raw: \x07\n", "run.yaml: expected YAML"),
    ],
)
def test_a_file_of_parameters_is_checked_like_options(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    done = cm3("run", "file", "run.yaml", store=tmp_path)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_diff_and_export_of_registered_versions(finished: Finished, tmp_path: Path) -> None:
    store, _ = finished
    same = json.loads(cm3("diff", "demo", "1", "1", "--json", store=store.uri).stdout)
    assert same["items_both"] > 0
    assert same["neighbor_overlap"] == 1
    assert "drift" in cm3("diff", "demo", "1", "1", store=store.uri).stdout
    made = cm3("export", "demo/embeddings/items@champion", str(tmp_path / "vectors"), store=store.uri)
    assert made.returncode == 0, made.stderr
    assert {path.name for path in (tmp_path / "vectors").iterdir()} == {"vectors.npy", "ids.npy", "index.faiss"}
