"""Pictures of the items: each URL becomes a decoded picture or a reason, politely, in bounded memory and time."""

from pipeline.images.stage import run

__all__ = ["run"]
