"""The multimodal similarity graph: each item's nearest neighbours by every feature and by their weighted mean."""

from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.lookup import similar
from pipeline.similarity.quality import assess
from pipeline.similarity.stage import run

__all__ = ["assess", "duplicates", "run", "similar"]
