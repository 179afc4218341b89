"""Work that ends its process."""

import os
import signal


def killed(*_: object) -> None:
    """End the process as the system does that needs its memory."""
    os.kill(os.getpid(), signal.SIGKILL)
