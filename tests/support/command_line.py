"""The command line `cm3` as a test calls it: in this process, or as a process where the test is about one."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from flows import cli

DEADLINE = 500.0


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def cm3(*arguments: str, store: Path | str) -> Answer:
    """Call the command line's entry point in this process, in the store's folder."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, _environment(store)),
        mock.patch.object(sys, "argv", ["cm3", *arguments]),
        contextlib.chdir(store),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            return Answer(int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("the entry point returned without an exit status")


def cm3_process(*arguments: str, store: Path | str, **variables: str) -> Answer:
    """Run the installed command as a user does."""
    process = subprocess.run(
        [str(Path(sys.executable).parent / "cm3"), *arguments],
        env=os.environ | _environment(store) | variables,
        cwd=store,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Answer(process.returncode, process.stdout, process.stderr)


def _environment(store: Path | str) -> dict[str, str]:
    return {"CM3_STORE": str(store), "COLUMNS": "160", "NO_COLOR": "1"}
