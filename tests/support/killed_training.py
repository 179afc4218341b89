"""One process of a training as torchrun starts it, whose second one kills itself in the midst of the third epoch."""

import os
import signal
import sys
from typing import Any

from flows import processes
from trainers.cm3.model import CM3

EPOCH, BATCHES = 3, 5
"""When, and how many batches an epoch has."""
_loss, _calls = CM3.loss, 0


def loss(self: CM3, *arguments: Any) -> Any:
    """The model's loss; the first time that all processes run, the second ends here."""
    global _calls
    _calls += 1
    each = -(-BATCHES // int(os.environ["WORLD_SIZE"]))
    in_third = _calls == each * (EPOCH - 1) + 1
    if in_third and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return _loss(self, *arguments)


if __name__ == "__main__":
    CM3.loss = loss  # type: ignore[method-assign]
    processes.main(sys.argv[1])
