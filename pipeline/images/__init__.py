"""Pictures of the items: each URL becomes a decoded picture or a reason, politely, in bounded memory and time."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.images.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`run`, imported when it is first used: see the docstring of `pipeline`. Decoders start without the stage."""
    if name == "run":
        from pipeline.images import stage

        return stage.run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
