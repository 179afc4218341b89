"""Ctrl-C waits for a safe point, and never longer."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import pytest

from pipeline.images.interrupt import orderly_interrupts


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    """Python's own handler, as in a terminal: the test runner or servers of other tests may have replaced it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_ctrl_c_waits_for_the_next_check_and_a_second_one_does_not() -> None:
    reached = []

    def work() -> None:
        with orderly_interrupts() as check:
            check()
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
                reached.append("after the second")
            check()
            reached.append("after the check")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_after_the_last_check_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), orderly_interrupts():
        signal.raise_signal(signal.SIGINT)


def test_another_handler_stays_in_charge() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with orderly_interrupts() as check:
            signal.raise_signal(signal.SIGINT)
            check()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_does_nothing_outside_the_main_thread() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with orderly_interrupts() as check:
                check()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
