"""Processes that begin with the heavy libraries imported: forked from a server that imports them once per session.

`cm3` is answered by such a process too: a program sends its arguments, folder, environment and standard streams through
a Unix socket, and receives the exit status.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "mlflow.store.tracking.sqlalchemy_store",
        "flows.cli.run",
        "flows.job",
        "flows.research",
        "pipeline.captions.transformers",
        "pipeline.encoders.openclip",
        "pipeline.encoders.sentence",
        "pipeline.encoders.timm",
        "pipeline.images.stage",
        "pipeline.report.stage",
        "tests.support.runner",
    ]
)
SOCKET = "CM3_WARM"
"""Environment variable: where `command` finds the socket."""


def run(entry: str, environment: dict[str, str], *arguments: object, stderr: str = os.devnull, **named: object) -> int:
    """Call a function in a warm process, as a program of its own would; returns the exit status.

    Args:
        entry: MODULE:FUNCTION. The module is imported where the environment holds already.
        stderr: the file to which the process writes its errors and its log.
    """
    process = CONTEXT.Process(target=_called, args=(entry, environment, arguments, named, stderr), daemon=True)
    process.start()
    try:
        process.join()
    finally:
        process.kill()  # where the test was interrupted while it waited
    return int(process.exitcode or 0)


def _called(
    entry: str, environment: dict[str, str], arguments: Sequence[object], named: dict[str, object], stderr: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with Path(stderr).open("ab") as file:
        os.dup2(file.fileno(), 2)
    module, name = entry.split(":")
    getattr(importlib.import_module(module), name)(*arguments, **named)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Answer commands until the block ends; yields the socket's path."""
    address = str(folder / "cm3.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        Thread(target=_serve, args=(listener,), daemon=True).start()
        try:
            yield address
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the listener was shut down
        while True:
            client, _ = listener.accept()
            CONTEXT.Process(target=_answer, args=(client,), daemon=True).start()
            client.close()


def _answer(client: socket.socket) -> None:
    """Run `cm3` for a client, as if this process were its child."""
    message, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += client.recv(1 << 20)
    request = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has put /dev/null in its place
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["cm3", *request["arguments"]]
    from flows import cli

    status = 1
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(str(status).encode())
    os._exit(status)


def command(arguments: list[str]) -> int:
    """Have `cm3` run with these arguments in a warm process, on this process's streams; returns its exit status."""
    request = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SOCKET])
        socket.send_fds(server, [f"{json.dumps(request)}\n".encode()], [0, 1, 2])
        return int(server.makefile().read() or 1)  # nothing: it was killed
