"""The multimodal similarity graph: each item's nearest neighbours by every feature and by their weighted mean."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.similarity.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.similarity import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
