"""A finished run of a small demo, shared by the tests that look at what a run leaves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import job
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.run import DemoParameters, RunSummary
from schemas.training import CM3Config
from tests.support.compose import STACK_DEMO, FlowRun, Stack, as_options

SMALL = DemoConfig(items=60, users=150)
QUICK = CM3Config(max_epochs=3)


def small_demo(store: Path, **changes: object) -> DemoParameters:
    """Parameters of a demo that takes seconds."""
    return DemoParameters(store=str(store), demo=SMALL, trainer=QUICK, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunSummary]:
    """A store after one run of the small demo, and the run's summary."""
    folder = tmp_path_factory.mktemp("finished")
    summary = job.run(parameters=small_demo(folder))
    return Store(folder), summary


def cm3(*arguments: str, store: Path | str, timeout: float = 500) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a user does."""
    command = [str(Path(sys.executable).parent / "cm3"), *arguments]
    environment = os.environ | {"CM3_STORE": str(store), "COLUMNS": "160", "NO_COLOR": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout, check=False, cwd=store
    )


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The services of docker-compose.yml, up to a healthy worker; stopped at the end, whatever happened."""
    running = Stack()
    try:
        running.up()
        yield running
    finally:
        running.down()


@pytest.fixture(scope="session")
def trained(stack: Stack) -> FlowRun:
    """A small demo, run to its end by the worker as a user would have it run."""
    done = stack.prefect("deployment", "run", "ingest-and-train/demo", *as_options(STACK_DEMO), "--watch")
    assert done.returncode == 0, done.stdout + done.stderr + stack.log("worker")
    return stack.newest_run("ingest-and-train")
