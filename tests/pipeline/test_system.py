"""What other systems lack, made to lack here; Windows: tests/flows/test_command.py."""

import os
import subprocess
import sys

import pytest

from pipeline import system


def test_a_system_that_does_not_say_which_cores_a_process_may_use_has_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert system.usable_cores() == 11


def test_a_c_library_other_than_glibc_keeps_its_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.ctypes, "CDLL", lambda name: object())
    system.keep_freed_memory()


@pytest.mark.parametrize("given", ["", "ACTIVE"])
def test_waiting_threads_leave_their_core_to_others_before_torch_is_imported(given: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = "import os, sys, pipeline; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    if given:
        environment["OMP_WAIT_POLICY"] = given
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert answer.split() == [given or "PASSIVE", "False"]
