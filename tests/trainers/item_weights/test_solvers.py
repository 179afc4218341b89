"""Columns by processes of this machine are those of its threads, also where one of the processes is killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.sparse as sp

from schemas.training import ItemWeightsConfig
from tests.conftest import ROOT
from tests.support.dying import killed
from trainers.data import Dataset, Modality
from trainers.item_weights import fit, ridge, solvers
from trainers.item_weights.choose import Choice
from trainers.item_weights.ridge import Ridge, Workers

CHOICE = Choice({"text": 1.0}, Ridge(5.0, 10.0), 2.0, 3, 0.0)


def weights(threads: int, width: int = 8) -> sp.csr_matrix:
    """Of what 80 users chose of 30 items with content of that width."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((80, 30)) < 0.15)
    feature = Modality("text", rng.normal(size=(30, width)).astype(np.float32), np.ones(30, np.bool_))
    ids = [f"u{row:02d}" for row in range(80)], [f"i{row:02d}" for row in range(30)]
    none = np.zeros((0, 2), np.int64)
    dataset = Dataset(*ids, pairs, none, none, {"text": feature}, None)
    return fit.item_weights(dataset, CHOICE, ItemWeightsConfig(candidates=10), threads, themselves=0.0).matrix


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> sp.csr_matrix:
    """From now on 30 items are many; the weights as one thread solves them."""
    alone = weights(threads=1)
    monkeypatch.setattr(solvers, "MANY", 30)
    monkeypatch.setattr(ridge, "SHARD", 7)
    return alone


@pytest.mark.slow
def test_processes_give_the_bytes_of_threads(many: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "solve", None)
    by_processes = weights(threads=3)
    assert by_processes.nnz > 30
    for part in ("data", "indices", "indptr"):
        assert getattr(by_processes, part).tobytes() == getattr(many, part).tobytes()


@pytest.mark.slow
def test_where_a_process_is_killed_threads_solve_the_columns(
    many: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dying(count: int) -> Workers:
        def workers(function: Any, shared: Any, parts: Iterable[Any]) -> Iterable[Any]:
            return solvers.solvers(count)(killed, shared, parts)

        return workers

    monkeypatch.setattr(fit, "solvers", dying)
    assert (weights(threads=3) != many).nnz == 0
    assert "solved by threads, which takes longer" in caplog.text


KILLED = """
import os, signal
from tests.support.dying import large
from trainers.item_weights.solvers import solvers

results = iter(solvers(2)(large, None, range(100_000)))
numbers = {next(results)[0] for _ in range(20)}
print(*numbers, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_processes_end_when_their_parent_is_killed() -> None:
    script = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert script.returncode == -signal.SIGKILL
    processes = [int(number) for number in script.stdout.split()]
    assert processes
    deadline = time.monotonic() + 60
    while any(map(is_running, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_few_items_few_threads_or_a_child_of_multiprocessing_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solvers.worth_processes(solvers.MANY, 3)
    assert not solvers.worth_processes(solvers.MANY - 1, 3)
    assert not solvers.worth_processes(solvers.MANY, 2)
    monkeypatch.setattr(solvers, "current_process", lambda: SimpleNamespace(daemon=True))
    assert not solvers.worth_processes(solvers.MANY, 3)


@pytest.mark.slow
def test_without_room_for_what_processes_share_threads_solve_the_columns(
    many: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "/dev/null/shared")
    wide = 10_000  # 1.2 MB: smaller arrays travel with each part
    assert (weights(threads=3, width=wide) != weights(threads=1, width=wide)).nnz == 0
    assert "solved by threads, which takes longer" in caplog.text
