"""Shared by every race: contestants in separate processes, their cost, and the form of a result."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

MIB = 1024.0


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds, peak memory (MiB) of the largest process, and the contestant's last line (JSON)."""

    cpu: float
    wall: float
    rss: float
    output: Any = None


Turn = tuple[Cost, Cost]
"""Our cost and the peer's, measured one after the other."""


def spawn(command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Cost:
    """Run a contestant; its cost is that of the whole process tree, including start-up.

    Raises:
        RuntimeError: it failed. A peer that fails fast is not fast.
    """
    with tempfile.TemporaryFile("w+") as printed:
        started = time.monotonic()
        # Linux counts the peak of the process that a vfork borrows its memory from as the contestant's own. Only here:
        # a fork beside a thread that multiplies can wait for OpenBLAS's threads for ever.
        with patch.object(subprocess, "_USE_VFORK", False):
            process = subprocess.Popen(command, stdout=printed, cwd=folder, env=os.environ | (environment or {}))
        _, status, usage = os.wait4(process.pid, 0)  # usage includes descendants it waited for
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        printed.seek(0)
        last = printed.read().strip().rpartition("\n")[2]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / MIB, json.loads(last))


def contestant(module: str, *arguments: object, threads: int | None = None) -> Cost:
    """`python -m benchmarks.MODULE ARGUMENTS`, which times itself without its imports and ends with `print_cost`."""
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    output = spawn(command, environment).output
    return Cost(output["cpu"], output["wall"], output["rss"], output)


def print_cost(cpu: float, wall: float, **more: Any) -> None:
    """A contestant's last line. It measures its own peak memory: the parent would see its own peak too, by the fork."""
    print(json.dumps({"cpu": cpu, "wall": wall, "rss": peak_memory()} | more))


def peak_memory() -> float:
    """Peak memory of this process, MiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] / MIB if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def peer_python(*packages: str) -> Path:
    """The interpreter of a peer's own environment, made on first use; never the project's."""
    environment = cache_folder() / "-".join(packages)
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", *packages], check=True)
        (environment / "complete").touch()
    return python


def peer_version(python: Path, package: str) -> str:
    """A peer's installed version."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def cache_folder() -> Path:
    """The folder of drawn pictures and peers' environments, kept between runs; `CM3_BENCHMARK_CACHE` sets it."""
    default = Path(tempfile.gettempdir()) / "cm3-benchmarks"
    folder = Path(os.environ.get("CM3_BENCHMARK_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def timed(function: Callable[[], Any]) -> Cost:
    """The cost of a call within this process; the memory is the process's peak so far."""
    cpu, wall = time.process_time(), time.perf_counter()
    output = function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(cpu, wall, peak_memory(), output)


def case(
    name: str, turns: Sequence[Turn], peer: str, work: int | None = None, unit: str = "CPU-seconds"
) -> dict[str, Any]:
    """One row of a race: medians of the turns by CPU time, their ratio, and the spread of the turns' ratios.

    Args:
        work: units of work, for a rate per CPU-second; None gives CPU-seconds.
    """
    ours, theirs = (_median(side) for side in zip(*turns, strict=True))
    ratios = [b.cpu / a.cpu for a, b in turns]
    figures = [work / cost.cpu if work else cost.cpu for cost in (ours, theirs)]
    return {
        "case": name,
        "unit": unit,
        "ours": figures[0],
        "peer": figures[1],
        "peer_name": peer,
        "ratio": theirs.cpu / ours.cpu,
        "spread": [min(ratios), max(ratios)],
        "cpu_s": ours.cpu,
        "wall_s": ours.wall,
        "peak_rss_mb": ours.rss,
        "peer_cpu_s": theirs.cpu,
        "peer_wall_s": theirs.wall,
        "peer_peak_rss_mb": theirs.rss,
    }


def growth(what: str, sizes: Sequence[int], costs: Sequence[Cost], start_up: Cost | None = None) -> dict[str, Any]:
    """Time and memory at several sizes as exponents of the size: 0 is constant, 1 linear, 2 quadratic.

    Args:
        start_up: the cost of a run with almost no work, subtracted from the times if processes were measured from
            their start. A size that takes less than a fifth longer than this is lost in the noise and left out.
    """
    start_up_cpu = start_up.cpu if start_up else 0.0
    seconds = [cost.cpu - start_up_cpu for cost in costs]
    times = [(size, time) for size, time in zip(sizes, seconds, strict=True) if time > start_up_cpu / 5]
    memory = [(size, cost.rss) for size, cost in zip(sizes, costs, strict=True)]
    exponents = [_slope(*np.log(np.array(p)).T) if len(p) > 1 else None for p in (times, memory)]
    last = costs[-1]
    return {
        "case": f"growth, {sizes[0]:,} to {sizes[-1]:,} {what}",
        "unit": "CPU-seconds",
        "ours": last.cpu,
        "cpu_s": last.cpu,
        "wall_s": last.wall,
        "peak_rss_mb": last.rss,
        "time_exponent": exponents[0],
        "memory_exponent": exponents[1],
        "sizes": list(sizes),
        "sizes_cpu_s": seconds,
        "sizes_peak_rss_mb": [cost.rss for cost in costs],
    }


def result(race: str, cases: list[dict[str, Any]], *packages: str, **versions: str) -> dict[str, Any]:
    """A race's cases, machine and versions, as `python -m benchmarks` prints them."""
    return {
        "race": race,
        "cases": cases,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "memory_gb": memory_gb()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages} | versions,
    }


def processor() -> str:
    """The processor's name, or its architecture if the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb() -> float:
    """The machine's memory, GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.cpu)[len(costs) // 2]


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.polyfit(x, y, 1)[0])
