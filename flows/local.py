"""A Prefect server and the served deployments on this machine, as child processes that end with this one.

cm3 up                          until Ctrl-C          (make up)
python -m flows.local demo      run the demo and end   (make demo)
"""

import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import httpx
import psutil

from flows.deployments import listed
from schemas.errors import UserError

START_SECONDS = 180
"""How long the server, then the deployments, may take to start on a slow machine."""
STOP_SECONDS = 15


def main(arguments: list[str]) -> int:
    """Entry of `python -m flows.local`; returns the exit status."""
    if arguments != ["demo"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return demo()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo() -> int:
    """Run `prefect deployment run ingest-and-train/demo --watch` against its own server; show what it made."""
    unwind_when_killed()
    with house(free_port()) as environment:
        command = [executable("prefect"), "deployment", "run", "ingest-and-train/demo", "--watch"]
        status = subprocess.run(command, env=environment, check=False).returncode
    if status == 0:
        status = subprocess.run([executable("cm3"), "show", "demo"], check=False).returncode
    return status


def up(port: int) -> NoReturn:
    """Serve until interrupted.

    Raises:
        UserError: see `house`.
    """
    unwind_when_killed()
    with house(port) as environment:
        folder = Path(environment["PREFECT_HOME"])
        here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        given = "PREFECT_SERVER_API_AUTH_STRING" in os.environ
        password = "your PREFECT_SERVER_API_AUTH_STRING" if given else f"the line in {here.parent / 'login'}"
        print(
            f"\nThe server is at http://127.0.0.1:{port} and the deployments are served. Its pages ask for the "
            f"login: {password}. From another terminal, in this folder:\n\n"
            f"    PREFECT_HOME={shlex.quote(str(here))} {shlex.quote(prefect_command())} deployment run "
            "ingest-and-train/demo --watch\n\nCtrl-C stops everything.\n",
            flush=True,
        )
        while True:
            time.sleep(3600)


def unwind_when_killed() -> None:
    """Let `kill` stop the children, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextlib.contextmanager
def house(port: int) -> Iterator[dict[str, str]]:
    """Run a server on `port` and serve the deployments; yields the environment in which Prefect's commands find them.

    Raises:
        UserError: the port is taken, or a process did not come up.
    """
    if not is_free(port):
        another = f"cm3 up --port {port + 1} (make up PORT={port + 1})"
        raise UserError(f"Port {port} is in use. Stop what listens there, or choose another: {another}.")
    environment = prefect_environment(port)
    children: list[subprocess.Popen[bytes]] = []
    try:
        say("starting Prefect's server (SQLite)")
        server = [executable("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with (home() / "server.log").open("ab") as log:
            children.append(spawn(server, environment, log))
        wait_until(f"http://127.0.0.1:{port}/api/health", children[-1], home() / "server.log")
        write_profile(environment)
        say("serving the deployments")
        children.append(spawn([sys.executable, "-m", "flows.deployments"], environment))
        last = listed()[-1].full_name  # they are registered in this order
        url = f"http://127.0.0.1:{port}/api/deployments/name/{last}"
        wait_until(url, children[-1], None, environment["PREFECT_API_AUTH_STRING"])
        yield environment
    finally:
        say("stopping")
        for child in reversed(children):
            stop(child)


def prefect_environment(port: int) -> dict[str, str]:
    """This process's environment, pointed at the server on `port`, which only its own pages and who has the login may
    ask."""
    password = login()
    return os.environ | {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,trainers,flows",
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",  # a folder `schemas` where this is started is not imported instead of ours
    }


def login() -> str:
    """The server's `USER:PASSWORD`: $PREFECT_SERVER_API_AUTH_STRING, else made once and kept in `.cm3/login`."""
    if given := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        return given
    path = home() / "login"
    if not path.exists() or not path.read_text().strip():
        write_private(path, f"cm3:{secrets.token_urlsafe(24)}\n")
    path.chmod(0o600)
    return path.read_text().strip()


def write_profile(environment: dict[str, str]) -> None:
    """Let `PREFECT_HOME=.cm3/prefect prefect …` in any terminal of this user find the server and its login."""
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    lines = [f"{name} = {json.dumps(environment[name])}\n" for name in names]  # a JSON string is a TOML string
    text = "".join(['active = "cm3"\n\n[profiles.cm3]\n', *lines])
    write_private(Path(environment["PREFECT_HOME"]) / "profiles.toml", text)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def prefect_command() -> str:
    """`prefect` of this environment as a person in this folder would write it."""
    path = Path(executable("prefect"))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def home() -> Path:
    """Where the local server keeps its database and log: `.cm3/` in the working folder, or `$CM3_HOME`."""
    folder = Path(os.environ.get("CM3_HOME", ".cm3")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def spawn(command: list[str], environment: dict[str, str], log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Start a child in its own session: Ctrl-C reaches this process alone, which then stops its children in order."""
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def wait_until(url: str, child: "subprocess.Popen[bytes]", log: Path | None, auth: str = "") -> None:
    """Ask `url`, with the login `auth` (USER:PASSWORD) if there is one, until it answers 200."""
    user, _, password = auth.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, auth=(user, password) if auth else None).status_code == 200:
                return
        time.sleep(0.3)
    output = f" Its log: {log}" if log else " What it printed is above."
    raise UserError(f"{' '.join(map(str, child.args[:4]))} … did not come up.{output}")  # type: ignore[index]


def stop(child: "subprocess.Popen[bytes]") -> None:
    """End a child and everything it started: by SIGTERM first, by SIGKILL what is left."""
    if child.poll() is not None:
        return
    family = [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=3)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    child.wait()


def executable(name: str) -> str:
    """A command of this Python environment."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def say(line: str) -> None:
    """One line on the terminal."""
    print(f"[local] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
