"""`cm3 run …`: what a run shows on a terminal and without one, and parameters from a file."""

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from schemas.run import RunSummary
from tests.conftest import ROOT
from tests.support import warm
from tests.support.command_line import cm3, cm3_process

QUICK_DEMO = (
    "--demo.items",
    "40",
    "--demo.users",
    "60",
    "--features",
    "sentence",
    "--trainer",
    '{"max_epochs": 2, "dim": 8}',
)


@pytest.mark.slow
def test_a_run_on_a_terminal_shows_bars_with_rate_and_time_left(tmp_path: Path) -> None:
    shown, status = on_terminal("run", "demo", *QUICK_DEMO, store=tmp_path)
    assert status == 0, shown
    for step in ("images", "features/sentence"):
        assert re.search(rf"{step} ━+.* \d+/\d+ .*/\w+ \d\d:\d\d left", shown), f"{step}: {shown[-4000:]}"
    assert re.search(r"training ━+.* \d+/\d+ .*/\w+ best", shown), "no remaining time: it ends when it improves no more"
    assert "epoch 1:" not in shown, "a bar tells of the epochs"


@pytest.mark.slow
def test_a_run_without_a_terminal_logs_plain_lines_and_answers_a_machine(tmp_path: Path) -> None:
    answer = cm3_process("run", "demo", *QUICK_DEMO, "--json", store=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert Path(RunSummary.model_validate_json(answer.stdout).report).is_file()
    assert "\x1b" not in answer.stderr
    assert "━" not in answer.stderr
    assert "cm3 epoch 1:" in answer.stderr


def on_terminal(*arguments: str, store: Path) -> tuple[str, int]:
    """What the command line writes to a terminal of 80 columns, without its colours and movements; and its status.

    A warm process answers: what a cold one says while it imports is the business of the test below.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"CM3_STORE": str(store), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    program = "import sys; from tests.support import warm; sys.exit(warm.command(sys.argv[1:]))"
    with warm.serving(store) as address:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {warm.SOCKET: address},
            cwd=store,
        )
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while part := os.read(ours, 65536):
                written += part
        status = process.wait(60)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r", "\n"), status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raw: .\nnam: shop", "nam: there is no such parameter; did you mean name"),
        ("kind: shop", "kind 'shop' is none of amazon, catalogue"),
        ("- a list", "expected `name: value` lines, found list"),
        ("raw: [\n", "run.yaml, line 2: expected YAML"),
        ("raw: a\nname: x\nraw: b\n", 'run.yaml, line 3: expected YAML; found duplicate key "raw"'),
        ("raw: \x07\n", "run.yaml: expected YAML"),
    ],
)
def test_a_file_of_parameters_is_checked_like_options(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    answer = cm3("run", "file", "run.yaml", store=tmp_path)
    assert answer.returncode == 1
    assert message in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


def test_every_flag_goes_before_the_file_of_whatever_kind_it_is(tmp_path: Path) -> None:
    (tmp_path / "gifts.yaml").write_text("kind: amazon\ncategory: Gift_Cards\nlimit: 5\ntrainer: {gamma: 3, dim: 16}")
    flags = ("--json", "--trainer.gamma", "0.5", "--category", "All_Beauty", "--trainer", '{"layers": 3}')
    answer = cm3("config", "file", *flags, "gifts.yaml", store=tmp_path)
    assert answer.returncode == 0, answer.stderr
    fields = json.loads(answer.stdout)
    assert [fields[name] for name in ("kind", "category", "limit")] == ["amazon", "All_Beauty", 5]
    assert [fields["trainer"][name] for name in ("gamma", "layers", "dim")] == [0.5, 3, 16]
    refused = cm3("plan", "file", "gifts.yaml", "--demo.items", "50", store=tmp_path)
    assert "No such option: --demo.items" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer", '{"layers":' + 300 * " " + "3}", "demo.yaml"),
        ("--store", "interactions.csv", "demo.yaml"),
        ("demo.txt", "--store", "interactions.csv"),
    ],
    ids=["a word longer than a file's name", "another file before it", "a name that does not say YAML"],
)
def test_the_file_of_parameters_is_found_among_the_words(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id")
    for name in ("demo.yaml", "demo.txt"):
        (tmp_path / name).write_text("kind: demo")
    answer = cm3("config", "file", *words, "--demo.items", "50", "--json", store=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["demo"]["items"] == 50
