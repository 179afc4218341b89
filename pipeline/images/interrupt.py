"""Ctrl-C is raised at safe points only."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def orderly_interrupts() -> Iterator[Callable[[], None]]:
    """Yields a function `check()`: inside the block a Ctrl-C waits for its next call, which raises KeyboardInterrupt.

    Python raises KeyboardInterrupt wherever the main thread happens to be. Between acquiring a lock and entering the
    block that releases it, that leaves the lock acquired for ever, and the event loop's thread waits for it; in a
    destructor the exception is dropped. So call `check()` often. A second Ctrl-C is raised at once. If another handler
    or thread is in charge (as under Prefect), nothing changes and `check()` does nothing.
    """
    interrupted = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt

    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
