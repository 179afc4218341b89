"""Processes of this machine that solve columns. Threads spend two fifths of a column in Python, one of them at a time.

joblib's, because they share large arrays through files in memory and need no guard in a user's own script.
"""

import os
import time
from collections.abc import Iterable, Iterator
from multiprocessing import current_process
from threading import Thread
from typing import Any

import joblib

from trainers.item_weights.ridge import Workers

MANY = 20_000
"""Items whose columns take so long that starting processes, a few seconds each, is worth it."""
FEW = 2
"""Threads that are kept: as many processes were a tenth faster, and hold the vectors and the interactions once more."""
IDLE_SECONDS = 10
"""After which a process without work ends."""


def solvers(count: int) -> Workers:
    """So many processes, each with one thread, while parts are left."""

    def by_processes(function: Any, shared: Any, parts: Iterable[Any]) -> Iterator[Any]:
        ends = {"initializer": _end_with, "initargs": (os.getpid(),)}
        with joblib.parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE_SECONDS, **ends):
            pool = joblib.Parallel(n_jobs=count, return_as="generator", batch_size=1)
        yield from pool(joblib.delayed(function)(shared, part) for part in parts)

    return by_processes


def worth_processes(items: int, threads: int) -> bool:
    """Whether that many columns are better solved by processes; a child of `multiprocessing` may not start any."""
    return items >= MANY and threads > FEW and not current_process().daemon


def _end_with(parent: int) -> None:
    """Let this process end when its parent was killed: it would wait for ever to hand over what it solved."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
