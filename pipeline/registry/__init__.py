"""Registered versions of the embeddings: which one is champion, what changed, what may go."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.registry.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.registry import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
