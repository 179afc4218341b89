"""Ctrl-C at safe points only."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def orderly_interrupts() -> Iterator[Callable[[], None]]:
    """Inside the block a Ctrl-C waits for the next call of the `check()` it gives, which raises KeyboardInterrupt.

    Python raises it wherever the main thread happens to be. Between taking a lock and entering the block that gives it
    back, that leaves the lock taken for ever, and the event loop's thread waits on it; in a destructor the exception
    is dropped. So call `check()` often. A second Ctrl-C is raised on the spot. Where another handler or thread is in
    charge (as under Prefect) nothing is changed and `check()` does nothing.
    """
    came = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    def check() -> None:
        if came:
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
