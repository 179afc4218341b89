"""The services of docker-compose.yml as processes, shared by the tests that ask them."""

from collections.abc import Iterator

import pytest

from tests.support.compose import STACK_DEMO, FlowRun, Stack, as_options


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
    process = stack.prefect("deployment", "run", "ingest-and-train/demo", *as_options(STACK_DEMO), "--watch")
    assert process.returncode == 0, process.stdout + process.stderr + stack.log("worker")
    return stack.newest_run("ingest-and-train")
