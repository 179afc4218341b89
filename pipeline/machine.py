"""Environment variables of the encoders, read here (trainers heed `CM3_DEVICE`), and what follows from the machine."""

import ctypes
import functools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch

from schemas.errors import UserError

logger = logging.getLogger(__name__)

Resolved = Literal["float32", "bfloat16"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def cache_folder() -> Path:
    """Where unpacked models live: `CM3_CACHE`, else `$XDG_CACHE_HOME/cm3`, else `~/.cache/cm3`."""
    if folder := os.environ.get("CM3_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cm3"


@functools.cache
def threads() -> int:
    """Cores to compute on: `CM3_THREADS`, else the cores this process may use, as `OMP_NUM_THREADS` caps them.

    Raises:
        UserError: `CM3_THREADS` is not a whole number above zero.
    """
    wanted = os.environ.get("CM3_THREADS")
    if wanted is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cap = os.environ.get("OMP_NUM_THREADS", "")
        return min(allowed, int(cap)) if cap.isdigit() and int(cap) > 0 else allowed
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"CM3_THREADS is the number of cores to compute on, a whole number from 1; found {wanted!r}.")
    return int(wanted)


@functools.cache
def use_threads() -> int:
    """Give torch and the tokenizers the same number of threads, and memory to keep, once in the life of the process.

    What runs side by side (`compute.side_by_side`) are as many threads of one core each.
    """
    count = threads()
    torch.set_num_threads(count)
    _keep_freed_memory()
    os.environ.setdefault("RAYON_NUM_THREADS", str(count))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if count > 1 else "false")
    logger.debug("computing on %d threads", count)
    return count


def _keep_freed_memory() -> None:
    """Have glibc keep what tensors of up to 32 MB leave, at most 128 MB of it, for the next ones.

    It would give it back, and have the kernel fill it with zeros again at every step: a sixth of a training step, and
    a tenth of EfficientNet's forward pass.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 128 << 20)


def devices() -> list[str]:
    """Where to compute: every GPU, else the processor. `CM3_DEVICE` overrides: `cpu`, `cuda:1`, `cuda:0,cuda:3`."""
    if names := os.environ.get("CM3_DEVICE"):
        return names.split(",")
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def device() -> torch.device:
    """The device of this process: the first of `devices()`."""
    return torch.device(devices()[0])


def forwards_at_once() -> int:
    """Forward passes at the same time: on a CPU one a core, on a GPU one after another."""
    return threads() if device().type == "cpu" else 1


def pictures_at_once(wanted: int | None) -> int:
    """Pictures per forward pass: on a CPU more than a few leave its caches.

    There 8 took 1.3 times as long as 4 for EfficientNet-Lite0, and as long for ViT-B.
    """
    return wanted or (4 if device().type == "cpu" else 64)


def tokens_at_once(wanted: int | None) -> int:
    """Tokens per forward pass, padding included: on a CPU as above."""
    return wanted or (512 if device().type == "cpu" else 16_384)


def resolve_dtype(policy: str) -> Resolved:
    """What `auto` means on this machine: bfloat16 where it is multiplied natively, float32 elsewhere."""
    if policy != "auto":
        return "bfloat16" if policy == "bfloat16" else "float32"
    return "bfloat16" if native_bfloat16() else "float32"


def native_bfloat16() -> bool:
    """Whether this process's device multiplies bfloat16 natively."""
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_multiplies_bfloat16()


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has bfloat16 products (AVX512_BF16 or AMX), and torch's kernels use them."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)
    return native and bool(torch._C._has_mkldnn)


T = TypeVar("T")


R = TypeVar("R")


def side_by_side(work: Callable[[T], R], tasks: Iterable[T], *, workers: int) -> Iterator[R]:
    """`work` of every task, in order: as many at once as there are `workers`, each on one thread of its own.

    Threads that share every product of one small batch wait for each other after each of its hundred layers; and what
    a vector is would depend on their number. `tasks` is read in the calling thread, at most `workers` ahead of those at
    work.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    begun: deque[Future[R]] = deque()
    with one_thread_each(workers) as pool:
        try:
            for task in tasks:
                begun.append(pool.submit(work, task))
                if len(begun) == 2 * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: those that share small products wait for each other more than they compute."""
    torch.get_num_threads()  # fixes this thread's own number: what one sets, torch takes as every new thread's
    try:
        with ThreadPoolExecutor(count, "product", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads())
