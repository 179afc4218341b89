"""Semantic ids: each item as a few discrete codes, from coarse to fine, as generative recommenders take them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.semantic_ids.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.semantic_ids import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
