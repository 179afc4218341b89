"""Threads and devices of this machine, work side by side on them, and what is set once per process."""

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
import contextlib, ctypes, resource, sys
from pipeline import machine, system

setting, size, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if setting != "plain":
    machine.use_threads()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
with system.large_tensors_kept() if setting == "large" else contextlib.nullcontext():
    for step in range(2 + times):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [libc.malloc(size) for _ in range(5)]
        for block in blocks:
            libc.memset(block, 1, size)
        for block in blocks:
            libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * resource.getpagesize())
"""


def faults_and_memory(setting: str, size: int, times: int) -> tuple[int, int]:
    """Page faults while five blocks are allocated `times` times, and the bytes that the process then has.

    The blocks are glibc's own, which is what tensors are made of: torch's small ones between them would decide by
    chance whether the end of the heap is free, and so whether glibc returns it.
    """
    command = [sys.executable, "-c", FAULTS, setting, str(size), str(times)]
    faults, memory = subprocess.run(command, capture_output=True, check=True).stdout.split()
    return int(faults), int(memory)


@pytest.mark.slow
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    (kept, _), (plain, _) = (faults_and_memory(setting, 1 << 24, 20) for setting in ("set", "plain"))
    assert kept * 5 < plain


@pytest.mark.slow
def test_the_memory_of_large_tensors_is_kept_during_a_training_and_then_returned() -> None:
    size = 40 << 20
    (kept, after), (set_, before) = (faults_and_memory(setting, size, 4) for setting in ("large", "set"))
    assert kept * 5 < set_
    assert after < before + size


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
        together.wait(timeout=500)
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


def test_a_thread_that_waited_while_a_model_was_loaded_computes_alone_too() -> None:
    before = torch.get_num_threads()
    try:
        with machine.one_thread_each(2) as pool:
            pool.submit(int).result()  # starts a thread, which has not asked torch for its number yet
            torch.set_num_threads(3)  # as `use_threads` does where the first fresh content comes late
            assert pool.submit(torch.get_num_threads).result() == 1
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


@pytest.mark.parametrize(("gpus", "names"), [(0, ["mps"]), (2, ["cuda:0", "cuda:1"])])
def test_encoders_alone_use_apples_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int, names: list[str]) -> None:
    monkeypatch.delenv("CM3_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.devices() == names
    assert machine.encoder_device() == torch.device(names[0])
    assert machine.device() == torch.device("cuda:0" if gpus else "cpu")
    with machine.computing_on("cpu"):
        assert machine.devices() == ["cpu"]
    assert machine.devices() == names
