"""Threads of this machine, work side by side on them, and what is set once per process."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from pipeline import machine
from pipeline.machine import side_by_side
from schemas.errors import UserError

FAULTS = """
import ctypes, resource, sys
from pipeline import machine

if sys.argv[1] == "set":
    machine.use_threads()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for step in range(22):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(1 << 24) for _ in range(5)]
    for block in blocks:
        libc.memset(block, 1, 1 << 24)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    """Page faults while five blocks of 16 MiB are allocated twenty times.

    The blocks are glibc's own, which is what tensors are made of: torch's small ones between them would decide by
    chance whether the end of the heap is free, and so whether glibc returns it.
    """
    faults = {
        name: int(subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, check=True).stdout)
        for name in ("set", "plain")
    }
    assert faults["set"] * 5 < faults["plain"]


@pytest.mark.slow
def test_threads_and_the_cache_folder_need_no_torch() -> None:
    code = "import sys; from pipeline import machine; machine.threads(), machine.cache_folder(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert "pipeline.machine" in modules
    assert "torch" not in modules


def test_one_setting_overrides_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_THREADS", "3")
    assert machine.threads.__wrapped__() == 3
    monkeypatch.setenv("CM3_THREADS", "many")
    with pytest.raises(UserError, match=r"CM3_THREADS .* found 'many'"):
        machine.threads.__wrapped__()
    monkeypatch.delenv("CM3_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads.__wrapped__() == 1


def test_several_batches_run_at_once_and_come_back_in_their_order() -> None:
    together = threading.Barrier(3)

    def forward(batch: int) -> tuple[int, int]:
        together.wait(timeout=60)
        return batch, torch.get_num_threads()

    assert list(side_by_side(forward, range(6), workers=3)) == [(batch, 1) for batch in range(6)]


@pytest.mark.parametrize("fails", [False, True])
def test_torch_has_as_many_threads_as_before_also_after_a_failure(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)

    def forward(batch: int) -> float:
        return 1 / batch

    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                list(side_by_side(forward, [2, 0, 1], workers=3))
        else:
            list(side_by_side(forward, [2, 1], workers=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_one_worker_is_the_calling_thread() -> None:
    threads = side_by_side(lambda _: threading.current_thread(), range(3), workers=1)
    assert set(threads) == {threading.current_thread()}


def test_the_calling_thread_computes_as_before_and_tasks_are_read_a_few_ahead() -> None:
    """In a thread that has not used torch yet, as a flow's tasks are run."""
    before, entries = torch.get_num_threads(), []
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(20):
            read.append(task)
            yield task

    def call() -> None:
        for task, inside in side_by_side(lambda task: (task, torch.get_num_threads()), tasks(), workers=2):
            entries.append((task, inside, torch.get_num_threads(), len(read) - task))

    torch.set_num_threads(3)
    try:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert [entry[:3] for entry in entries] == [(task, 1, 3) for task in range(20)]
    assert max(ahead for *_, ahead in entries) == 4
