"""A Dask scheduler and workers as separate processes, as on several machines, and what kills one of the workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import Cluster
from pipeline.machine import threads

ROOT = Path(__file__).parents[2]
WORKERS = 2


class DaskCluster:
    """Started by `running`.

    Attributes:
        address: of the scheduler.
        client: a `distributed.Client` of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pids: dict[str, int] = {}
        self.client: Any = None
        self.address = ""

    def start(self) -> None:
        """A scheduler, and a client of it."""
        from distributed import Client

        file = str(self._folder / "scheduler.json")
        self._spawn(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--dashboard-address",
            "127.0.0.1:0",
            "--scheduler-file",
            file,
        )
        self.client = Client(scheduler_file=file, set_as_default=False, timeout=20)
        self.address = self.client.scheduler.address

    def fill(self) -> None:
        """Start workers until there are `WORKERS` of them."""
        for _ in range(WORKERS - len(self.client.nthreads())):
            self._spawn(
                "worker",
                self.address,
                "--host",
                "127.0.0.1",
                "--nthreads",
                "1",
                "--no-nanny",
                "--dashboard-address",
                "127.0.0.1:0",
            )
        self.client.wait_for_workers(WORKERS, timeout=120)
        self._pids = self.client.run(os.getpid)

    def busy(self) -> list[str]:
        """Addresses of the workers that have tasks."""
        return [worker for worker, keys in self.client.processing().items() if keys]

    def workers(self) -> list[str]:
        """Addresses of all workers."""
        return list(self.client.nthreads())

    def freeze(self, workers: Iterable[str]) -> None:
        """Suspend workers until `thaw`, without the scheduler's knowledge."""
        self._signal(workers, signal.SIGSTOP)

    def thaw(self, workers: Iterable[str]) -> None:
        """Let frozen workers go on."""
        self._signal(workers, signal.SIGCONT)

    def kill(self, workers: Iterable[str]) -> None:
        """End workers without notice."""
        self._signal(workers, signal.SIGKILL)

    def kill_scheduler(self) -> None:
        """End the scheduler without notice."""
        self._processes[0].kill()
        self._processes[0].wait()

    def stop(self) -> None:
        """End every process."""
        if self.client is not None:
            with suppress(RuntimeError):  # raised by distributed if the scheduler is gone and it tries to reconnect
                self.client.close()
        for process in self._processes:
            process.kill()
            process.wait()

    def _signal(self, workers: Iterable[str], number: int) -> None:
        for worker in workers:
            os.kill(self._pids[worker], number)

    def _spawn(self, *command: str) -> None:
        log = (self._folder / f"{command[0]}-{len(self._processes)}.log").open("wb")
        environment = os.environ | {"CM3_THREADS": str(threads()), "DASK_TEMPORARY_DIRECTORY": str(self._folder)}
        with log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
                )
            )


class Killer:
    """Kills one worker in the middle of the first tasks: it has some, and the others have finished theirs.

    All workers are frozen before tasks are submitted, so that no speed matters. When the run waits for them, one that
    has tasks stays frozen and the others go on; when the run waits for that one alone, it is killed.

    Attributes:
        dead: the killed worker's address, or None.
    """

    def __init__(self, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dead: str | None = None
        self._dask = dask
        self._victim: str | None = None
        self._map = Cluster.map
        monkeypatch.setattr(Cluster, "map", lambda *arguments, **how: self._watched(*arguments, **how))

    def _watched(self, cluster: Cluster, *arguments: Any, **how: Any) -> Iterator[Any]:
        if self.dead:
            self._dask.thaw(worker for worker in self._dask.workers() if worker != self.dead)
            return self._map(cluster, *arguments, **how)
        self._dask.freeze(self._dask.workers())
        idle = how.pop("idle", lambda: None)

        def waiting() -> None:
            idle()
            busy = self._dask.busy()
            if self._victim is None and busy:
                self._victim = busy[0]
            if self._victim is not None and self.dead is None:  # again each time: none may stay frozen by a later map
                self._dask.thaw(worker for worker in self._dask.workers() if worker != self._victim)
            if self.dead is None and busy == [self._victim]:
                self._dask.kill(busy)
                self.dead = self._victim

        return self._map(cluster, *arguments, idle=waiting, **how)


class Load:
    """A number that counts, in each process, how often one like it arrived there."""

    arrived = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).arrived += 1
        self.__dict__.update(state)


def times(load: Load, part: int) -> int:
    """Runs on a worker."""
    return load.number * part


def arrivals() -> int:
    """Runs on a worker: how often a `Load` arrived there."""
    return Load.arrived


@contextmanager
def running(folder: Path) -> Iterator[DaskCluster]:
    """A scheduler without workers. Without Dask the test skips, or fails under CM3_REQUIRE_SYSTEM=1."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        missing = "Dask is not installed: pip install 'cm3-features[dask]'"
        if os.environ.get("CM3_REQUIRE_SYSTEM") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    cluster = DaskCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
