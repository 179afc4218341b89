"""Raw catalogue to `items`, `interactions` and `quality`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.ingest.stage import check, run

__all__ = ["check", "run"]


def __getattr__(name: str) -> object:
    """`check` and `run`, imported when they are first used: see the docstring of `pipeline`."""
    if name in __all__:
        from pipeline.ingest import stage

        return getattr(stage, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
