"""Processes of this machine that solve columns. Threads spend two fifths of a column in Python, one of them at a time.

joblib's, because they share large arrays through files in memory and need no guard in a user's own script.
"""

from collections.abc import Iterable, Iterator
from multiprocessing import current_process
from typing import Any

import joblib

from trainers.item_weights.ridge import Workers

MANY = 20_000
"""Items whose columns take so long that starting processes, a few seconds each, is worth it."""
FEW = 2
"""Threads that are kept: as many processes were a tenth faster, and hold the vectors and the interactions once more."""
IDLE_SECONDS = 10
"""After which a process ends, as those do whose parent was killed."""


def solvers(count: int) -> Workers:
    """So many processes, each with one thread, while parts are left."""

    def by_processes(function: Any, shared: Any, parts: Iterable[Any]) -> Iterator[Any]:
        with joblib.parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE_SECONDS):
            pool = joblib.Parallel(n_jobs=count, return_as="generator", batch_size=1)
        yield from pool(joblib.delayed(function)(shared, part) for part in parts)

    return by_processes


def worth_processes(items: int, threads: int) -> bool:
    """Whether that many columns are better solved by processes; a child of `multiprocessing` may not start any."""
    return items >= MANY and threads > FEW and not current_process().daemon
