"""What operating systems do each in its own way. Its imports are light: every decoder of pictures begins with them."""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""
LOOKS_PER_SECOND = 200
"""How often a process looks at its own memory where the system does not bound it."""


def check() -> None:
    """Locks, bounds of memory and process groups are POSIX's.

    Raises:
        UserError: this is Windows.
    """
    if sys.platform == "win32":
        from schemas.errors import UserError  # pydantic

        raise UserError("cm3 runs on Linux and macOS, not on Windows itself: use WSL (`wsl --install`), and cm3 there.")


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless `OMP_WAIT_POLICY` says otherwise.

    By default they spin, and on cores that other processes want too, one of them holds the core that the other needs:
    beside a single process of the lowest priority an epoch of the demo took 2.5 s in place of 0.06 s. To be called
    before torch is imported, which reads the variable then.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cores() -> int:
    """Cores that this process may use; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory(each: int = 32 << 20, total: int = 128 << 20) -> None:
    """Have glibc keep the memory of freed tensors of up to `each` bytes, at most `total`, for the next ones.

    By default it returns such memory, and the kernel fills it with zeros again at every step: a sixth of the time of a
    training step, and a tenth of EfficientNet's forward pass. Another C library has no such setting.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, each)
        libc.mallopt(M_TRIM_THRESHOLD, total)


@contextmanager
def large_tensors_kept() -> Iterator[None]:
    """Meanwhile freed tensors of up to 1 GB each, 2 GB in total, are kept for the next ones; then all is returned.

    For a training, whose tables over all users are of that size: of a step at 192,403 users and 63,001 items, whose
    tables have up to 200 MB, the kernel's zeros took 40 %. It takes a quarter more memory.
    """
    keep_freed_memory(1 << 30, (1 << 31) - 1)
    try:
        yield
    finally:
        keep_freed_memory()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def bound_memory(more: int) -> None:
    """Let this process take at most `more` bytes of memory beyond what it takes now.

    On Linux, what would take more raises MemoryError. macOS does not keep RLIMIT_AS, and refuses it below the hundreds
    of gigabytes of addresses that each of its processes begins with: there a thread looks at what is resident, and
    above the bound the process ends by SIGKILL.
    """
    if sys.platform == "linux":
        import resource  # absent on Windows, where `check` says so

        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
        highest = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
        resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
        return
    import psutil

    process = psutil.Process()
    most = process.memory_info().rss + more

    def watch() -> None:
        while process.memory_info().rss <= most:
            time.sleep(1 / LOOKS_PER_SECOND)
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
