"""Locks between processes of one machine.

The kernel frees a lock with its process: a killed one blocks nobody, and what it left half made is known by its lock.
"""

import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def held(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file until the block ends.

    It does not let its own holder in a second time.

    Args:
        waiting: called once if another process, or thread, holds it.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def staging_folder(parent: Path, name: str) -> tuple[IO[str], Path]:
    """A new folder for what is being written, and the open lock file beside it, which shows that its writer lives."""
    while True:
        folder = parent / f"{name}-{uuid.uuid4().hex[:8]}"
        lock = folder.with_suffix(".lock")
        file = lock.open("x")
        fcntl.flock(file, fcntl.LOCK_EX)
        if lock.exists():  # else somebody took it for a dead one, between its making and its locking
            folder.mkdir()
            return file, folder
        file.close()


@contextmanager
def staging(parent: Path, name: str) -> Iterator[Path]:
    """A staging folder that goes when the block ends, after those of killed processes."""
    remove_abandoned(parent)
    lock, folder = staging_folder(parent, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        lock.close()


def remove_abandoned(parent: Path) -> int:
    """Delete the staging folders in `parent` whose writers were killed; returns how many."""
    count = 0
    for lock in parent.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            count += 1
    return count
