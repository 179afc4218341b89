"""Raw catalogue to `items`, `interactions` and `quality`."""

from pipeline.ingest.stage import check, run

__all__ = ["check", "run"]
