"""In which order tests run, which ones `make quick` leaves out, and what xdist gives to one worker.

A file's tests stay together, for the sake of its fixtures; so do all tests that ask the services of docker-compose.yml,
which are started once. They come first where workers share the tests, because they mostly wait.
"""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

SLOW = {"stack", "finished", "environment", "browser", "children", "dask", "transformers_server"}
"""Fixtures that start processes, servers or browsers, or run the whole job: a test that uses one is slow."""
STACK = ("test_compose.py", "test_set_up.py", "test_docs.py", "test_crashes.py")
"""Files whose tests ask the services: those that kill services last."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and put quick ones before slow ones."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "stack" in fixtures:
            item.add_marker(pytest.mark.xdist_group("stack"))
        if SLOW.intersection(fixtures) or item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.slow)
    shared = "PYTEST_XDIST_WORKER" in os.environ

    def rank(item: pytest.Item) -> tuple[int, bool]:
        if item.get_closest_marker("xdist_group") is None:
            return 0, item.get_closest_marker("slow") is not None
        place = STACK.index(item.path.name) if item.path.name in STACK else 0
        return (place - len(STACK) if shared else 1 + place), True

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadGroupScheduling":
    """Give a worker a group, or a file, at a time, in the order above."""
    from xdist.scheduler import LoadGroupScheduling

    class GroupsAndFiles(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid.split("::")[0] if scope == nodeid else scope

    config.option.loadscopereorder = False
    return GroupsAndFiles(config, log)
