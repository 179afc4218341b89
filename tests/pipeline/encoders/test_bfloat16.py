"""Batches side by side: the same vectors whatever the number of threads, which is afterwards what it was."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.encoders import bfloat16 as compute
from pipeline.encoders import load, sentence
from pipeline.encoders.base import TextEncoder
from schemas.encoders import PRESETS

TEXTS = [f"a {'very ' * (n % 40)}red mug, number {n}" for n in range(90)]


@pytest.fixture
def encoder() -> TextEncoder:
    found = load.load(PRESETS["offline"].encoders["sentence"])
    assert isinstance(found, TextEncoder)
    return found


def test_the_number_of_threads_decides_no_vector(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr(sentence, "forwards_at_once", lambda count=count: count)
        found.append(encoder.encode(TEXTS))
    np.testing.assert_array_equal(found[1], found[2])
    # Some products are summed in another order where threads share them (AMX's are).
    assert (found[0] * found[1]).sum(axis=1).min() > 1 - 1e-5


def test_several_batches_run_at_once_and_come_back_in_their_order() -> None:
    together = threading.Barrier(3)

    def forward(batch: int) -> tuple[int, int]:
        together.wait(timeout=60)
        return batch, torch.get_num_threads()

    assert list(compute.side_by_side(forward, range(6), workers=3)) == [(batch, 1) for batch in range(6)]


@pytest.mark.parametrize("fails", [False, True])
def test_torch_has_as_many_threads_as_before_also_after_a_failure(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(compute, "threads", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)

    def forward(batch: int) -> float:
        return 1 / batch

    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                list(compute.side_by_side(forward, [2, 0, 1], workers=3))
        else:
            list(compute.side_by_side(forward, [2, 1], workers=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 512])
def test_a_packed_product_is_the_plain_one(bias: bool, rows: int) -> None:
    linear = torch.nn.Linear(48, 80, bias=bias)
    ours = compute.Bfloat16Linear(linear)
    x = torch.randn(2, rows, 48)
    plain = linear.bfloat16()(x.bfloat16()).float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), plain, rtol=2**-7, atol=1e-6)  # a bit of bfloat16: AMX sums differently


def test_one_worker_is_the_thread_that_asks() -> None:
    found = compute.side_by_side(lambda _: threading.current_thread(), range(3), workers=1)
    assert set(found) == {threading.current_thread()}


def test_the_thread_that_asks_computes_as_before_and_tasks_are_read_a_few_ahead() -> None:
    """In a thread that has not used torch yet, as a flow's tasks are run."""
    before, seen = torch.get_num_threads(), []
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(20):
            read.append(task)
            yield task

    def asks() -> None:
        for done in compute.side_by_side(lambda task: (task, torch.get_num_threads()), tasks(), workers=2):
            seen.append((*done, torch.get_num_threads(), len(read) - done[0]))

    torch.set_num_threads(3)
    try:
        thread = threading.Thread(target=asks)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert [entry[:3] for entry in seen] == [(task, 1, 3) for task in range(20)]
    assert max(ahead for *_, ahead in seen) == 4
