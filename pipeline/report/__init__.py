"""One self-contained HTML file for a run: what went in, what came out, and how to look at it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.report.stage import run

__all__ = ["STAGE_VERSION", "run"]

STAGE_VERSION = 2
"""Raised whenever the same tables give another report."""


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.report import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
