"""Ports for servers of other projects, which must be given one. What can be asked for its own port is given port 0."""

import random

from flows.local import is_free

_given: set[int] = set()
"""Ports that this process has handed out: their servers may not listen yet."""


def free_port() -> int:
    """A free port below those that the system gives to clients: no connection takes it before the server listens.

    The one 10,000 above (SeaweedFS's gRPC) is free too, below them as well, and given to nobody else.
    """
    while True:
        port = random.randrange(10_000, 20_000)
        if port not in _given and is_free(port) and is_free(port + 10_000):
            _given.add(port)
            return port
