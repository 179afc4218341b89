"""One run at a time on one data set of a store."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import locks
from pipeline.store import Store, explained

logger = logging.getLogger(__name__)


@contextmanager
def alone(store: Store, dataset: str) -> Iterator[None]:
    """Wait until no other run on this machine works on `dataset`, then hold it until the block ends.

    Between machines the deployments' work queues do the same (prefect.yaml): one queue per source, one run at a time.
    """
    with explained(f"the lock of {dataset}", store):
        lock = store.scratch("locks") / dataset
        lock.touch()
    with locks.held(
        lock, waiting=lambda: logger.info("%s: another run works on this data set; waiting until it ends", dataset)
    ):
        yield
