"""Pictures of the items: each URL becomes a decoded picture or a reason, politely, in bounded memory and time."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.images.stage import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    # The decoders' processes import this package, and start in a tenth of the time without what the stage needs.
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.images.stage import run

    return run
