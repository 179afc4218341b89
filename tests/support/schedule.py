"""In which order tests run, which ones `make quick` leaves out, and what xdist gives to one worker.

A file's tests stay together, for the sake of its fixtures; so do all tests that ask the services of docker-compose.yml,
which are started once. Where workers share the tests, those come first, because they mostly wait; then the files with
the most slow tests, so that at the end there are short ones to share.
"""

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

SLOW = {"stack", "finished", "environment", "browser", "dask", "transformers_server"}
"""Fixtures that start processes, servers or browsers, or run the whole job: a test that uses one is slow.

Tests that do so themselves, or take seconds, have the mark `slow`."""
STACK = ("test_compose.py", "test_set_up.py", "test_docs.py", "test_compose_crashes.py")
"""Files whose tests ask the services: those that kill services last."""
ON_STACK = "@stack"
"""In the id of a parameter set that asks the services, in a file whose other tests do not."""


def scope(nodeid: str) -> str:
    """What a test shares its fixtures with: its file, or all that ask the services."""
    path = nodeid.split("::")[0]
    asks = path.endswith(STACK) and not path.endswith("test_docs.py")
    return "stack" if asks or ON_STACK in nodeid else path


def is_last_of_stack(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Whether no later test of this process asks the services."""
    return scope(item.nodeid) == "stack" != (following and scope(following.nodeid))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and put quick ones before slow ones."""
    for item in items:
        if SLOW.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    shared = "PYTEST_XDIST_WORKER" in os.environ
    slow = Counter(scope(item.nodeid) for item in items if item.get_closest_marker("slow"))

    def rank(item: pytest.Item) -> tuple[int, int, bool]:
        group = scope(item.nodeid)
        if group != "stack":
            return 0, -slow[group] if shared else 0, item.get_closest_marker("slow") is not None
        place = STACK.index(item.path.name)
        return (place - len(STACK) if shared else 1 + place), 0, True

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """Give a worker one scope at a time, in the order above.

    Instead of xdist's groups: version 3.8 writes them into a private field of the item that pytest 9.2 does not read.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scopes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False
    return Scopes(config, log)
