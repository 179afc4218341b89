"""One way to show progress: a bar with rate and remaining time on a terminal, else a log line every ten seconds."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import log_fields, telemetry

logger = logging.getLogger(__name__)
LOG_EVERY = 10.0
"""Seconds between two log lines, or two calls of a watcher, of one loop."""


class Advance(Protocol):
    """Called by the block after `n` more steps; a `note`, such as a figure, is shown at the end of the bar."""

    def __call__(self, n: int, note: str = "") -> None: ...


@dataclass
class Steps:
    """How far a loop is.

    Attributes:
        total: number of steps; 0 if unknown.
        unit: in the plural; "B" is shown as kB, MB, ….
        at_most: the loop may well end before `total`, so nobody is told a remaining time.
        count: steps so far.
        ended: the loop has ended, perhaps after fewer steps than `total`.
    """

    description: str
    total: int
    unit: str
    at_most: bool = False
    count: int = 0
    note: str = ""
    ended: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> str:
        """The average since the start, in words."""
        return rate(self.count, self.seconds, self.unit)

    def __str__(self) -> str:
        word = "" if self.unit == "B" else f" {self.unit}"
        if self.ended:
            return f"{self.description}: {amount(self.count, self.unit)}{word} in {self.seconds:.1f} s"
        bound = "at most " if self.at_most else ""
        of = f" of {bound}{amount(self.total, self.unit)}" if self.total else ""
        left = (self.total - self.count) * self.seconds / self.count if self.count and not self.at_most else 0
        remaining = f", about {left:.0f} s left" if left > 0 else ""
        note = self.note and f", {self.note}"
        return f"{self.description}: {amount(self.count, self.unit)}{of}{word} ({self.rate}{remaining}){note}"


Watcher = Callable[[Steps], None]
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Loops of known length in the block also call `watcher`: at the start, every ten seconds and at the end.

    It is called in the middle of the work: it must return at once and must not raise.
    """
    before = _WATCHER.get()
    _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.set(before)


@contextmanager
def track(
    description: str, *, total: int, unit: str = "items", part: str = "", at_most: bool = False
) -> Iterator[Advance]:
    """Follow a loop of known length; the block gets `advance(n)`.

    On a terminal (standard error) a bar; otherwise, as in a Prefect run, a log line every ten seconds and at the end.

    Args:
        total: number of steps; 0 if unknown.
        unit: what a step is, in the plural; "B" is shown as kB, MB, ….
        part: what one call of `advance` completes, such as "shard". Log lines of the block carry a field of this name,
            which counts the parts from 1.
        at_most: the loop may well end before `total`: no remaining time is shown.
    """
    steps = Steps(description, total, unit, at_most)
    watcher = _WATCHER.get() if total else None
    number = 1
    last_report = time.monotonic()

    with (
        log_fields.about(**({part: number} if part else {})),
        telemetry.parts(unit, part) as ended,
        _display(steps) as show,
    ):

        def advance(n: int, note: str = "") -> None:
            nonlocal number, last_report
            steps.count += n
            steps.note = note
            ended(n)
            is_due = time.monotonic() - last_report >= LOG_EVERY
            show(is_due)
            if is_due:
                last_report = time.monotonic()
                if watcher:
                    watcher(steps)
            number += 1
            if part:
                log_fields.change(**{part: number})

        if watcher:
            watcher(steps)
        yield advance
    steps.ended = True
    if watcher:
        watcher(steps)
    if not sys.stderr.isatty():
        logger.info("%s", str(steps))


def amount(n: int, unit: str) -> str:
    """A count with separators, or bytes as kB, MB, …."""
    return decimal(n) if unit == "B" else f"{n:,}"


def rate(count: int, seconds: float, unit: str) -> str:
    """How fast: `12 images/s`, `1.4 MB/s`; slow steps the other way round, `8.5 s/epoch`."""
    per_second = count / max(seconds, 1e-9)
    if unit == "B":
        return f"{decimal(int(per_second))}/s"
    if 0 < per_second < 1:
        return f"{1 / per_second:.1f} s/{unit.removesuffix('s')}"
    return f"{per_second:.1f} {unit}/s" if per_second < 9.95 else f"{per_second:,.0f} {unit}/s"


def _display(steps: Steps) -> AbstractContextManager[Callable[[bool], None]]:
    """Gives the function to call after each step, with whether it is time for a log line."""
    return _on_terminal(steps) if sys.stderr.isatty() else _in_lines(steps)


@contextmanager
def _in_lines(steps: Steps) -> Iterator[Callable[[bool], None]]:
    def show(is_due: bool) -> None:
        if is_due:
            logger.info("%s", str(steps))

    yield show


@contextmanager
def _on_terminal(steps: Steps) -> Iterator[Callable[[bool], None]]:
    """Narrow enough for 80 columns; the bar itself takes what the words leave."""
    of = f"/{amount(steps.total, steps.unit)}" if steps.total else ""
    left = () if steps.at_most else (TimeRemainingColumn(compact=True), TextColumn("left"))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        *left,
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        first = f"{amount(0, steps.unit)}{of}"
        task = bar.add_task(steps.description, total=steps.total or None, count=first, rate="", note="")

        def show(_: bool) -> None:
            count = f"{amount(steps.count, steps.unit)}{of}"
            bar.update(task, completed=steps.count, count=count, rate=steps.rate, note=steps.note)

        yield show
