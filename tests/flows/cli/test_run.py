"""`cm3 run …`: what a run shows on a terminal and without one, and parameters from a file."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from schemas.run import RunSummary
from tests.support.command_line import cm3, cm3_process

QUICK_DEMO = (
    "--demo",
    '{"items": 40, "users": 60}',
    "--features",
    "sentence",
    "--trainer",
    '{"max_epochs": 2, "dim": 8}',
)


@pytest.mark.slow
def test_a_run_on_a_terminal_shows_bars_with_rate_and_time_left(tmp_path: Path) -> None:
    shown, status = on_terminal("run", "demo", *QUICK_DEMO, store=tmp_path)
    assert status == 0, shown
    for step in ("images", "features/sentence", "training, at most"):
        assert re.search(rf"{step} ━+.* \d+/\d+ .*/\w+ \d\d:\d\d left", shown), f"{step}: {shown[-4000:]}"
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
    """What the command line writes to a terminal of 80 columns, without its colours and movements; and its status."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "cm3"), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"CM3_STORE": str(store), "TERM": "xterm-256color"},
        cwd=store,
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end was closed
        while part := os.read(ours, 65536):
            written += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r", "\n"), process.wait(60)


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
