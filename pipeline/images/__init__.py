"""Pictures of the items: from URLs to decoded pictures or a reason, politely and in bounded memory and time."""

from pipeline.images.stage import run

__all__ = ["run"]
