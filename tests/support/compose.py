"""docker-compose.yml without Docker: the same commands and environments as plain processes on loopback.

Names of services become 127.0.0.1 and their ports free ones; what an image's own entry point would do (PostgreSQL's
initdb) is done here. Dependencies, health checks and one-shots are taken from the file.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import s3fs
import yaml

from flows.local import stop
from tests.support import prefect_api
from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = {
    "POSTGRES_PASSWORD": "pg5ecret0f7he7est",
    "REDIS_PASSWORD": "redi55ecret0f7he7est",
    "PREFECT_PASSWORD": "prefect5ecret0f7he7est",
    "S3_ACCESS_KEY": "acce55key0f7he7est",
    "S3_SECRET_KEY": "s3cr3tkey0f7he7est",
    "CM3_API_KEY": "api5ecret0f7he7est",
}
S3_PORT, SERVE_PORT = "8333", "8000"
PORTS = ("5432", "6379", "4200", "5000", S3_PORT, "8080", SERVE_PORT)
DEADLINE = 300.0
"""Seconds for anything here to happen; generous, since the machine may be busy."""
FlowRun = dict[str, Any]
"""A flow run as Prefect's API gives it."""
STACK_DEMO: dict[str, Any] = {
    "demo": {"items": 40, "users": 60},
    "features": ["sentence", "vision"],
    "trainer": {"max_epochs": 2, "dim": 8},
}
"""Parameters of a demo that takes seconds."""


def as_options(parameters: dict[str, Any]) -> list[str]:
    """Parameters for `prefect deployment run`."""
    return [word for name, value in parameters.items() for word in ("--param", f"{name}={json.dumps(value)}")]


def required(program: str, package: str) -> str:
    """Path of a system program; the test skips, or fails under CM3_REQUIRE_SYSTEM=1, where it is absent."""
    path = shutil.which(program) or next(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), None)
    if path is None:
        line = f"{program} is not installed; sudo apt-get install {package}"
        if os.environ.get("CM3_REQUIRE_SYSTEM") == "1":
            pytest.fail(line)
        pytest.skip(line)
    return str(Path(path).resolve() if package == "postgresql" else path)


def interpolated(text: str, values: dict[str, str]) -> str:
    """Compose's `${NAME:?message}` and `${NAME:-default}`."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if name in values:
            return values[name]
        if operator == ":-":
            return str(rest)
        raise ValueError(f"{name}: {rest}")

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


class Stack:
    """The services of docker-compose.yml, started by name with what they depend on."""

    def __init__(self) -> None:
        self.initdb = Path(required("initdb", "postgresql"))
        self.redis = required("redis-server", "redis-server")
        self.folder = Path(tempfile.mkdtemp(prefix="cm3-stack-"))
        self.folder.chmod(0o755)
        self.ports = {port: str(free_port()) for port in PORTS}
        self.seaweed = {name: str(free_port()) for name in ("master.port", "volume.port", "filer.port")}
        self.client = httpx.Client(timeout=30, auth=prefect_api.Login(f"cm3:{SECRETS['PREFECT_PASSWORD']}"))
        document = yaml.safe_load(interpolated(COMPOSE.read_text(), SECRETS))
        self.services: dict[str, dict[str, Any]] = document["services"]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.reached: set[str] = set()
        self.one_shots = {
            other
            for service in self.services.values()
            for other, wanted in service.get("depends_on", {}).items()
            if wanted["condition"] == "service_completed_successfully"
        }

    def here(self, text: str, service: str) -> str:
        """A word of a command, or a value of an environment, with this machine's addresses, ports and folders."""
        names = "|".join(self.services)
        text = re.sub(rf"\b(?:{names})(?=:\d)|(?<=-ip=)(?:{names})\b", "127.0.0.1", text)
        text = re.sub(rf"(?<![\w.])(?:{'|'.join(PORTS)})\b", lambda m: self.ports[m[0]], text)
        if text == "/raw":  # what is mounted there in the worker's container
            return os.environ.get("CM3_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
        return text.replace("0.0.0.0", "127.0.0.1").replace("/data", str(self.folder / service))

    def command(self, service: str) -> list[str]:
        """What the container would run."""
        words = [self.here(word, service) for word in self.services[service]["command"]]
        return words + [f"-{name}={port}" for name, port in self.seaweed.items() if words[0] == "weed"]

    def environment(self, service: str) -> dict[str, str]:
        """What the container would see, and this machine's own PATH and HOME."""
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        given = self.services[service].get("environment", {}).items()
        own = {k: "127.0.0.1" if v in self.services else self.here(str(v), service) for k, v in given}
        path = f"{Path(sys.executable).parent}:{self.initdb.parent}:{os.environ['PATH']}"
        image = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        quick = {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(self.folder / "prefect"), "PYTHONPATH": str(ROOT)}
        loops = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2", "PREFECT_WORKER_QUERY_SECONDS": "2"}
        return keep | {"PATH": path} | image | quick | loops | own

    def up(self) -> None:
        """Start every service as soon as what it depends on allows; return when all are up or have ended well."""
        deadline = time.monotonic() + 2 * DEADLINE
        while waiting := [name for name in self.services if not self.is_up(name)]:
            for name in waiting:
                if name not in self.running and all(map(self.is_up, self.services[name].get("depends_on", ()))):
                    self.start(name)
            assert time.monotonic() < deadline, "\n".join(f"{name} is not up: {self.log(name)}" for name in waiting)
            time.sleep(0.3)

    def is_up(self, service: str) -> bool:
        """Whether a one-shot has ended well, or a service passes its health check (where it has one)."""
        if service in self.reached or service not in self.running:
            return service in self.reached
        ended = self.running[service].poll()
        if service in self.one_shots:
            assert ended in (None, 0), f"{service} failed: {self.log(service)}"
            reached = ended == 0
        else:
            assert ended is None, f"{service} ended: {self.log(service)}"
            reached = "healthcheck" not in self.services[service] or self.is_healthy(service)
        if reached:
            self.reached.add(service)
        return reached

    def is_healthy(self, service: str) -> bool:
        """One run of the service's health check."""
        test = [self.here(word, service) for word in self.services[service]["healthcheck"]["test"][1:]]
        return subprocess.run(test, env=self.environment(service), capture_output=True).returncode == 0

    def start(self, service: str) -> None:
        """Start a service's process, again after it was killed."""
        (self.folder / service).mkdir(exist_ok=True)
        command, options = self.postgres() if service == "postgres" else (self.command(service), {})
        with (self.folder / f"{service}.log").open("ab") as log:
            self.running[service] = subprocess.Popen(
                command,
                env=self.environment(service),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def postgres(self) -> tuple[list[str], dict[str, Any]]:
        """The server's command, after the image's entry point: create user, password and database once."""
        data = self.folder / "postgres"
        options: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(data, "postgres", "postgres")
            options = {"user": "postgres", "group": "postgres", "extra_groups": []}
        if not (data / "PG_VERSION").exists():
            password = self.folder / "password"
            password.write_text(SECRETS["POSTGRES_PASSWORD"])
            password.chmod(0o644)
            make = [str(self.initdb), "-D", str(data), "-U", "cm3", "--auth=scram-sha-256", f"--pwfile={password}"]
            subprocess.run(make, check=True, cwd="/", capture_output=True, **options)
            sql = [str(self.initdb.with_name("postgres")), "--single", "-D", str(data), "postgres"]
            subprocess.run(
                sql, check=True, cwd="/", input=b"create database prefect;\n", capture_output=True, **options
            )
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        server = [str(self.initdb.with_name("postgres")), "-D", str(data), "-p", self.ports["5432"]]
        return server + [word for setting in settings for word in ("-c", setting)], options

    def kill(self, service: str) -> None:
        """kill -9 a service and everything in its session; `start` or `up` brings it back, as Docker would."""
        process = self.running.pop(service)
        self.reached.discard(service)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)

    def down(self) -> None:
        """Kill everything, as nobody reads what it leaves; PostgreSQL, which holds shared memory, is stopped last."""
        self.client.close()
        for name, process in self.running.items():
            if name != "postgres" and process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
                process.wait(DEADLINE)
        if "postgres" in self.running:
            stop(self.running["postgres"])
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, service: str) -> str:
        """The end of what a service printed."""
        with contextlib.suppress(OSError):
            return (self.folder / f"{service}.log").read_text(errors="replace")[-4000:]
        return ""

    def python(self, *arguments: str) -> None:
        """A `python` command as someone at the worker would give it; it must succeed."""
        command = [sys.executable, *arguments]
        subprocess.run(command, env=self.environment("worker"), cwd=ROOT, check=True, timeout=DEADLINE)

    def prefect(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A `prefect` command as someone at the worker would give it."""
        return subprocess.run(
            ["prefect", *arguments],
            env=self.environment("worker"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def api(self, path: str, body: object = None, method: str = "POST") -> Any:
        """Ask Prefect's API, again and again while it does not answer."""
        url = self.environment("worker")["PREFECT_API_URL"] + path
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                answer = self.client.request(method, url, json=body)
                if answer.status_code < 500:
                    return answer.raise_for_status().json() if answer.content else None
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{url} does not answer: {self.log('api')}"
            time.sleep(0.5)

    def schedule_small_demo(self) -> None:
        """What is scheduled extracts the tests' demo: at its hour the default one, which is larger, would be the latest
        data set that all later runs are compared with."""
        deployment = self.api("/deployments/name/re-extract/demo", method="GET")
        for schedule in deployment["schedules"]:
            path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
            self.api(path, {"parameters": STACK_DEMO}, method="PATCH")

    def runs(self, flow: str, **only: Any) -> list[FlowRun]:
        """Flow runs of a flow, the newest first."""
        body = {"flows": {"name": {"any_": [flow]}}, "flow_runs": only or None, "sort": "EXPECTED_START_TIME_DESC"}
        runs: list[FlowRun] = self.api("/flow_runs/filter", body)
        return runs

    def newest_run(self, flow: str) -> FlowRun:
        """The run of a flow that was started last."""
        return self.runs(flow, start_time={"is_null_": False})[0]

    def first_run(self, flow: str, **properties: object) -> FlowRun:
        """Wait until a worker has begun a run of a flow that has these properties."""
        deadline = time.monotonic() + DEADLINE
        while True:
            begun = self.runs(flow, start_time={"is_null_": False})
            if chosen := [run for run in begun if all(run[k] == v for k, v in properties.items())]:
                return chosen[-1]
            assert time.monotonic() < deadline, f"no run of {flow} began\n{self.log('services')}{self.log('worker')}"
            time.sleep(0.5)

    def wait_for(self, run_id: str, *states: str) -> FlowRun:
        """Wait until a flow run is in one of these states; any other final one fails."""
        deadline = time.monotonic() + DEADLINE
        while (run := self.api(f"/flow_runs/{run_id}", method="GET"))["state_type"] not in states:
            ended = run["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            assert not ended, f"{run['state']}\n{self.log('worker')}"
            assert time.monotonic() < deadline, f"still {run['state']}, waited for {states}\n{self.log('worker')}"
            time.sleep(0.5)
        return dict(run)

    def wait_for_task(self, run_id: str, name: str) -> None:
        """Wait until a task of a flow run has begun."""
        deadline = time.monotonic() + DEADLINE
        body = {"flow_runs": {"id": {"any_": [run_id]}}}
        while not any(task["name"].startswith(name) for task in self.api("/task_runs/filter", body)):
            assert time.monotonic() < deadline, f"{name} did not begin: {self.log('worker')}"
            time.sleep(0.2)

    def storage_options(self) -> dict[str, str]:
        """How a consumer reaches the S3 store."""
        worker = self.environment("worker")
        return {
            "key": worker["AWS_ACCESS_KEY_ID"],
            "secret": worker["AWS_SECRET_ACCESS_KEY"],
            "endpoint": worker["AWS_ENDPOINT_URL"],
        }

    def bucket(self) -> s3fs.S3FileSystem:
        """The S3 store as a consumer with keys sees it."""
        options = self.storage_options()
        return s3fs.S3FileSystem(
            key=options["key"], secret=options["secret"], endpoint_url=options["endpoint"], use_listings_cache=False
        )
