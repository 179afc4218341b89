"""Progress: rates in words, and what a loop logs without a terminal; tests/flows/cli/test_run.py has a terminal."""

import logging

import pytest

from pipeline import log_fields
from pipeline.progress import amount, rate, track, watched


@pytest.mark.parametrize(
    ("count", "seconds", "unit", "text"),
    [
        (5000, 2.0, "items", "2,500 items/s"),
        (3, 2.0, "epochs", "1.5 epochs/s"),
        (2, 17.0, "epochs", "8.5 s/epoch"),
        (3_000_000, 2.0, "B", "1.5 MB/s"),
        (0, 1.0, "items", "0.0 items/s"),
    ],
)
def test_a_rate_is_told_in_the_larger_of_its_two_forms(count: int, seconds: float, unit: str, text: str) -> None:
    assert rate(count, seconds, unit) == text


def test_counts_have_separators_and_bytes_have_units() -> None:
    assert (amount(1234567, "items"), amount(1234567, "B")) == ("1,234,567", "1.2 MB")


@pytest.mark.parametrize("total", [3, 0])
def test_without_a_terminal_a_loop_logs_its_end(
    total: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.LOG_EVERY", 0.0)
    with caplog.at_level(logging.INFO, "pipeline.progress"), track("reading", total=total, unit="items") as advance:
        advance(1)
        advance(2, note="good")
    first, _, last = caplog.messages
    assert first.startswith("reading: 1 of 3 items (" if total else "reading: 1 items (")
    assert last.startswith("reading: 3 items in ")


def test_a_loop_that_may_end_early_tells_no_remaining_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.LOG_EVERY", 0.0)
    with caplog.at_level(logging.INFO, "pipeline.progress"):
        with track("training", total=1000, unit="epochs", at_most=True) as advance:
            advance(4, note="best 0.06")
        with track("reading", total=1000) as advance:
            advance(4)
    assert caplog.messages[0].startswith("training: 4 of at most 1,000 epochs (")
    assert caplog.messages[0].endswith("), best 0.06")
    assert "left" not in caplog.messages[0]
    assert "left)" in caplog.messages[2]


def test_a_watcher_hears_of_the_start_of_what_is_due_and_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.progress.LOG_EVERY", 0.0)
    calls: list[tuple[int, bool]] = []
    with watched(lambda steps: calls.append((steps.count, steps.ended))):
        with track("training", total=100, unit="epochs") as advance:
            advance(30)
        with track("of unknown length", total=0) as advance:
            advance(1)
    assert calls == [(0, False), (30, False), (30, True)]


def test_a_watcher_is_not_told_the_end_of_what_failed() -> None:
    calls: list[bool] = []
    with (
        watched(lambda steps: calls.append(steps.ended)),
        pytest.raises(ValueError, match="bad"),
        track("reading", total=2),
    ):
        raise ValueError("bad")
    assert calls == [False]


def test_lines_say_which_part_they_are_about_until_the_loop_ends() -> None:
    fields = []
    with log_fields.about(stage="captions"):
        with track("captions", total=3, part="shard") as advance:
            fields.append(dict(log_fields.current()))
            advance(1)
            fields.append(dict(log_fields.current()))
        fields.append(dict(log_fields.current()))
    assert fields == [{"stage": "captions", "shard": 1}, {"stage": "captions", "shard": 2}, {"stage": "captions"}]
    assert log_fields.current() == {}


def test_a_block_that_fails_passes_its_error_on() -> None:
    with pytest.raises(ValueError, match="bad"), track("reading", total=1):
        raise ValueError("bad")
