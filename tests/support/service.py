"""`cm3 serve`'s application on a loopback port, in a thread of this process."""

import functools
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from pipeline.serving.app import create
from pipeline.serving.follower import Follower
from pipeline.serving.server import bound, settings
from pipeline.store import Store
from schemas.serving import State

DEADLINE = 60.0


@dataclass(frozen=True)
class Service:
    """A running service; it looks at its store when it is told to."""

    app: FastAPI
    follower: Follower
    client: httpx.Client
    port: int

    def look(self) -> State:
        """Look at the store, and load what has changed."""
        state = self.follower.look()
        self.app.state.versions.refresh()
        return state

    def connect(self) -> socket.socket:
        """A connection on which nothing was said yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)


@contextmanager
def serving(store: Store, *, key: str = "", looks: bool = True) -> Iterator[Service]:
    """Serve until the block ends.

    Args:
        looks: whether the store was looked at before the first request.
    """
    with tempfile.TemporaryDirectory() as folder, bound("127.0.0.1", 0) as listener:
        follower = Follower(store, Path(folder))
        if looks:
            follower.look()
        app = create(Path(folder), store.uri, key)
        server = uvicorn.Server(settings(functools.partial(_same, app), 1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        port = listener.getsockname()[1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client:
                yield Service(app, follower, client, port)
        finally:
            server.should_exit = True
            thread.join()


def _same(app: FastAPI) -> FastAPI:
    return app
