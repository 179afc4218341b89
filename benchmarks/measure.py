"""What every race shares: contestants in processes of their own, what they cost, and the form of the result."""

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

import numpy as np

MIB = 1024.0


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds, peak memory (MiB) of the largest process, and what the contestant printed last (JSON)."""

    cpu: float
    wall: float
    rss: float
    told: Any = None


Turn = tuple[Cost, Cost]
"""Ours and the peer's, measured one after the other."""


def spawn(command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Cost:
    """Run a contestant; the cost is that of its whole process tree, start-up included.

    Raises:
        RuntimeError: it failed; a peer that fails fast is not fast.
    """
    with tempfile.TemporaryFile("w+") as printed:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=printed, cwd=folder, env=os.environ | (environment or {}))
        _, status, usage = os.wait4(process.pid, 0)  # the process and every descendant that it waited for
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
        printed.seek(0)
        last = printed.read().strip().rpartition("\n")[2]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / MIB, json.loads(last))


def contestant(module: str, *arguments: object, threads: int | None = None) -> Cost:
    """`python -m benchmarks.MODULE ARGUMENTS`, which times itself, imports left out, and ends with `tell`."""
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    told = spawn(command, environment).told
    return Cost(told["cpu"], told["wall"], told["rss"], told)


def tell(cpu: float, wall: float, **more: Any) -> None:
    """What a contestant prints last. It tells its own peak: what its parent sees includes the parent's, by the fork."""
    print(json.dumps({"cpu": cpu, "wall": wall, "rss": peak_memory()} | more))


def peak_memory() -> float:
    """Peak memory of this process, MiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] / MIB if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def peer_python(*packages: str) -> Path:
    """The interpreter of an environment that holds a peer, made on first use, never the project's own."""
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
    """Where drawn pictures and peers' environments are kept between runs; `CM3_BENCHMARK_CACHE` moves it."""
    default = Path(tempfile.gettempdir()) / "cm3-benchmarks"
    folder = Path(os.environ.get("CM3_BENCHMARK_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def timed(function: Callable[[], Any]) -> Cost:
    """A call within this process: its CPU and wall seconds; memory is the process's so far."""
    cpu, wall = time.process_time(), time.perf_counter()
    told = function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(cpu, wall, peak_memory(), told)


def case(
    name: str, turns: Sequence[Turn], peer: str, work: int | None = None, unit: str = "CPU-seconds"
) -> dict[str, Any]:
    """One line of a race: medians of the turns by CPU time, the ratio of those, and the spread of the turns' ratios.

    Args:
        work: units of work done, for a rate by CPU-second; None gives CPU-seconds.
    """
    ours, theirs = (_median(side) for side in zip(*turns, strict=True))
    ratios = [b.cpu / a.cpu for a, b in turns]
    figures = [work / cost.cpu if work else cost.cpu for cost in (ours, theirs)]
    return {
        "case": name, "unit": unit, "ours": figures[0], "peer": figures[1], "peer_name": peer,
        "ratio": theirs.cpu / ours.cpu, "spread": [min(ratios), max(ratios)],
        "cpu_s": ours.cpu, "wall_s": ours.wall, "peak_rss_mb": ours.rss,
        "peer_cpu_s": theirs.cpu, "peer_wall_s": theirs.wall, "peer_peak_rss_mb": theirs.rss,
    }  # fmt: skip


def growth(what: str, sizes: Sequence[int], costs: Sequence[Cost], start_up: Cost | None = None) -> dict[str, Any]:
    """Time and memory at several sizes as exponents of the size: 0 is constant, 1 linear, 2 all pairs.

    Args:
        start_up: the cost of next to nothing, taken off the times where processes were measured from their start. A
            size that takes less than a fifth of it more is lost in its noise, and tells nothing of time.
    """
    least = start_up.cpu if start_up else 0.0
    seconds = [cost.cpu - least for cost in costs]
    told = [(size, time) for size, time in zip(sizes, seconds, strict=True) if time > least / 5]
    memory = [(size, cost.rss) for size, cost in zip(sizes, costs, strict=True)]
    exponents = [float(np.polyfit(*np.log(points).T, 1)[0]) for points in (told, memory)]
    last = costs[-1]
    return {
        "case": f"growth, {sizes[0]:,} to {sizes[-1]:,} {what}", "unit": "CPU-seconds", "ours": last.cpu,
        "cpu_s": last.cpu, "wall_s": last.wall, "peak_rss_mb": last.rss,
        "time_exponent": exponents[0], "memory_exponent": exponents[1],
        "sizes": list(sizes), "sizes_cpu_s": seconds, "sizes_peak_rss_mb": [cost.rss for cost in costs],
    }  # fmt: skip


def result(race: str, cases: list[dict[str, Any]], *packages: str, **versions: str) -> dict[str, Any]:
    """A race in the form that docs/benchmarks.md explains."""
    return {
        "race": race,
        "cases": cases,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "memory_gb": memory_gb()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages} | versions,
    }


def processor() -> str:
    """The processor's name, where the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb() -> float:
    """The machine's memory, GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.cpu)[len(costs) // 2]
