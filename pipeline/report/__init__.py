"""One self-contained HTML file for a run: what went in, what came out, and how to look at it."""

from pipeline.report.stage import run

__all__ = ["run"]
