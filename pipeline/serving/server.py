"""Starts the follower and the serving processes, and stops them."""

import functools
import logging
import os
import socket
import threading
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from pipeline import locks
from pipeline.machine import cache_folder, threads
from pipeline.serving.app import create
from pipeline.serving.follower import Follower
from pipeline.serving.measures import FOLDER
from pipeline.serving.protection import Impatient
from pipeline.store import Store
from schemas.errors import UserError

logger = logging.getLogger(__name__)

KEY_VARIABLE = "CM3_API_KEY"
SHORTEST_KEY = 16
LOOPBACK = ("127.0.0.1", "localhost")
BACKLOG = 2048


def serve(store: Store, host: str, port: int, workers: int, on_start: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        on_start: told the address as soon as requests are taken.
    Raises:
        UserError: no key although others can reach the server; the port is taken.
    """
    key = checked_key(host)
    with bound(host, port) as listener:
        folder = cache_folder() / "serving"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # vectors and users' ids
        with locks.staging(folder, "server") as own:
            stop = threading.Event()
            follower = threading.Thread(target=Follower(store, own).follow, args=(stop,), name="follower")
            try:
                (own / "counts").mkdir()
                os.environ[FOLDER] = str(own / "counts")
                # Serving processes inherit these: together they compute on no more threads than there are cores.
                for library in ("OPENBLAS", "OMP", "MKL"):
                    os.environ[f"{library}_NUM_THREADS"] = str(max(1, threads() // workers))
                follower.start()
                on_start(f"http://{host}:{listener.getsockname()[1]}")
                application = functools.partial(create, own, store.uri, key, os.getpid())
                Multiprocess(settings(application, workers), [listener]).run()
            finally:
                stop.set()
                follower.join()


def settings(application: Callable[[], object], workers: int) -> uvicorn.Config:
    """How uvicorn serves the application that a call makes."""
    return uvicorn.Config(
        application,
        factory=True,
        workers=workers,
        http=Impatient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        timeout_worker_healthcheck=60,
    )


def checked_key(host: str) -> str:
    """The key in the environment.

    Raises:
        UserError: there is none although `host` can be reached from elsewhere, or it is too short.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and host not in LOOPBACK:
        raise UserError(
            f"--host {host} can be reached from other machines: set {KEY_VARIABLE} to a key that they must give "
            "(openssl rand -hex 24), or listen on 127.0.0.1."
        )
    if key and len(key) < SHORTEST_KEY:
        raise UserError(f"{KEY_VARIABLE}: expected at least {SHORTEST_KEY} characters; found {len(key)}.")
    return key


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; otherwise answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(
            f"Port {port} cannot be used: {error.strerror or error}. Choose another one, or 0 for any free one."
        ) from error
    listener.set_inheritable(True)
    return listener
