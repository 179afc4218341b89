"""Functions in processes of their own that stop at a decided moment: a test can put two of them in any order."""

import os
import re
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.warm import CONTEXT

DEADLINE = 300.0
Stop = Callable[[], None]
"""Called by the function at the decided moment: returns when the test says so."""


class Actor:
    """`function(stop, *arguments)` in a child process."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_act, args=(theirs, function, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def reach(self) -> "Actor":
        """Wait until it has stopped at its moment."""
        assert self._received() == ("stopped", None)
        return self

    def go_on(self) -> None:
        """Let it leave its moment."""
        self._pipe.send("go on")

    def until_it_waits(self) -> None:
        """Wait until it waits for a lock that another process holds, or is over."""
        deadline = time.monotonic() + DEADLINE
        blocked = re.compile(rf"-> FLOCK .* {self._process.pid} ")
        while not (blocked.search(Path("/proc/locks").read_text()) or self._pipe.poll(0.005)):
            assert time.monotonic() < deadline

    def result(self) -> Any:
        """What it returned; an exception that it raised is returned too."""
        kind, value = self._received()
        assert kind == "returned"
        self._process.join(DEADLINE)
        return value

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join(DEADLINE)

    def _received(self) -> Any:
        assert self._pipe.poll(DEADLINE), "it said nothing"
        return self._pipe.recv()


def become_nobody() -> None:
    """Give up root's rights, which no folder's permissions bind; another user's stay as they are."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _act(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    def stop() -> None:
        pipe.send(("stopped", None))
        pipe.recv()

    try:
        value = function(stop, *arguments)
    except Exception as error:  # noqa: BLE001 - handed to the test
        value = error
    pipe.send(("returned", value))
