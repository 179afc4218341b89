"""The services of docker-compose.yml as processes, shared by the tests that ask them."""

from collections.abc import Generator, Iterator

import pytest

from tests.support.compose import STACK_DEMO, FlowRun, Stack, as_options
from tests.support.schedule import is_last_of_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The services of docker-compose.yml, up to a healthy worker; stopped after the last test that asks them."""
    running = Stack()
    try:
        running.up()
        running.schedule_small_demo()
        yield running
    finally:
        running.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Services that nobody asks any longer would take the cores from all tests that follow."""
    used: Stack | None = getattr(item, "funcargs", {}).get("stack")
    yield
    if used and is_last_of_stack(item, nextitem):
        used.down()


@pytest.fixture(scope="session")
def trained(stack: Stack) -> FlowRun:
    """A small demo, run to its end by the worker as a user would have it run."""
    process = stack.prefect("deployment", "run", "ingest-and-train/demo", *as_options(STACK_DEMO), "--watch")
    assert process.returncode == 0, process.stdout + process.stderr + stack.log("worker")
    return stack.newest_run("ingest-and-train")
