"""One run at a time on one data set of a store."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.store import Store, explained

logger = logging.getLogger(__name__)


@contextmanager
def alone(store: Store, dataset: str) -> Iterator[None]:
    """Wait until no other run on this machine works on `dataset`, then hold it until the block ends.

    The kernel frees the lock with its process, so a killed run blocks nobody. Between machines the deployments' work
    queue does the same (prefect.yaml): one queue a data set, one run at a time.
    """
    with explained(f"the lock of {dataset}", store):
        opened = (store.scratch("locks") / dataset).open("a")
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another run works on this data set; waiting until it ends", dataset)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
