"""Captions of pictures, by a multimodal model on this machine or behind an endpoint."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.captions.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`."""
    if name == "run":
        from pipeline.captions import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
