"""Work that ends its process, or whose process's parent ends."""

import os
import signal


def killed(*_: object) -> None:
    """End the process as the system does that needs its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def large(*_: object) -> tuple[int, bytes]:
    """The process's number, and more than a pipe holds."""
    return os.getpid(), bytes(1 << 20)
