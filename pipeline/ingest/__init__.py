"""Raw catalogue to `items`, `interactions` and `quality`."""

from pipeline.ingest.stage import run

__all__ = ["run"]
