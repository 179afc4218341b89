"""Threads, devices and arithmetic of this machine, and the environment variables that override them.

torch is imported by the functions that need it: it takes two seconds, and `threads` and `cache_folder` do without.
"""

import functools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pipeline.system import keep_freed_memory, usable_cores
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Arithmetic = Literal["float32", "bfloat16"]
T = TypeVar("T")
R = TypeVar("R")

_device: ContextVar[str] = ContextVar("device", default="")
"""The device inside a block of `computing_on`."""


def cache_folder() -> Path:
    """Where unpacked models lie: `CM3_CACHE`, else `$XDG_CACHE_HOME/cm3`, else `~/.cache/cm3`."""
    if folder := os.environ.get("CM3_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cm3"


@functools.cache
def threads() -> int:
    """Cores to compute on: `CM3_THREADS`, else the cores this process may use, at most `OMP_NUM_THREADS`.

    Raises:
        UserError: `CM3_THREADS` is not a whole number above zero.
    """
    setting = os.environ.get("CM3_THREADS")
    if setting is None:
        cores = usable_cores()
        cap = os.environ.get("OMP_NUM_THREADS", "")
        return min(cores, int(cap)) if cap.isdigit() and int(cap) > 0 else cores
    if not setting.isdigit() or int(setting) < 1:
        raise UserError(f"CM3_THREADS is the number of cores to compute on, a whole number from 1; found {setting!r}.")
    return int(setting)


@functools.cache
def use_threads() -> int:
    """Give torch and the tokenizers the same number of threads, and have freed memory kept; once per process.

    `side_by_side` runs as many threads of one core each instead.
    """
    import torch

    count = threads()
    torch.set_num_threads(count)
    keep_freed_memory()
    os.environ.setdefault("RAYON_NUM_THREADS", str(count))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if count > 1 else "false")
    logger.debug("computing on %d threads", count)
    return count


def devices() -> list[str]:
    """Where to encode: every NVIDIA GPU, else Apple's (`mps`), else the processor.

    `CM3_DEVICE` overrides: `cpu`, `cuda:1`, `cuda:0,cuda:3`.
    """
    if names := _device.get() or os.environ.get("CM3_DEVICE"):
        return names.split(",")
    import torch

    apple = ["mps"] if torch.backends.mps.is_available() else ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or apple


def encoder_device() -> "torch.device":
    """The device on which this process encodes: the first of `devices()`."""
    import torch

    return torch.device(devices()[0])


def device() -> "torch.device":
    """The device of everything else: the same, but the processor in place of Apple's GPU.

    That has no float64, by which neighbours are exact, and writes captions of its own.
    """
    import torch

    encoding = encoder_device()
    return torch.device("cpu") if encoding.type == "mps" else encoding


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Inside the block, and in its thread, `name` is the only device."""
    before = _device.set(name)
    try:
        yield
    finally:
        _device.reset(before)


def forwards_at_once() -> int:
    """Forward passes at the same time: on a CPU one per core, on a GPU one after another."""
    return threads() if encoder_device().type == "cpu" else 1


def pictures_at_once(batch_size: int | None) -> int:
    """Pictures per forward pass: `batch_size`, or as many as suit the device.

    On a CPU a few pictures already fill its caches. Per picture, batches of 8 took 1.3 times as long as batches of 4
    for EfficientNet-Lite0, and equally long for ViT-B.
    """
    return batch_size or (4 if encoder_device().type == "cpu" else 64)


def tokens_at_once(batch_tokens: int | None) -> int:
    """Tokens per forward pass, padding included: `batch_tokens`, or as many as suit the device."""
    return batch_tokens or (512 if encoder_device().type == "cpu" else 16_384)


def resolve_dtype(policy: str) -> Arithmetic:
    """What `auto` means on this machine: bfloat16 if it is multiplied natively, else float32."""
    if policy != "auto":
        return "bfloat16" if policy == "bfloat16" else "float32"
    return "bfloat16" if native_bfloat16() else "float32"


def native_bfloat16() -> bool:
    """Whether this process's device multiplies bfloat16 natively."""
    import torch

    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_multiplies_bfloat16()


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has bfloat16 products (AVX512_BF16 or AMX), and torch's kernels use them."""
    import torch

    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)
    return native and bool(torch._C._has_mkldnn)


def side_by_side(work: Callable[[T], R], tasks: Iterable[T], *, workers: int) -> Iterator[R]:
    """`work` of every task, in order: `workers` of them at the same time, each on a thread of its own.

    Threads that share the products of one small batch would wait for each other after each of its hundred layers, and
    the vectors would depend on their number. `tasks` is read in the calling thread, at most `workers` ahead of those
    that are being worked on.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    futures: deque[Future[R]] = deque()
    with one_thread_each(workers) as pool:
        try:
            for task in tasks:
                futures.append(pool.submit(work, task))
                if len(futures) == 2 * workers:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that compute on one core each: if they shared small products, they would mostly wait."""
    import torch

    def compute_alone() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)

    # A thread takes the number that was set last, by whichever thread, when torch first asks for it there. So it is
    # asked for before another is set: a thread that waited while a model was loaded would share its first products.
    torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "product", compute_alone) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads())
