"""Vectors of one feature for every item: made by an encoder, or imported."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.features.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.features import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
