"""The multimodal similarity graph: each item's nearest neighbours by every feature and by their weighted mean."""

from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.graph import run
from pipeline.similarity.lookup import similar
from pipeline.similarity.quality import assess

__all__ = ["assess", "duplicates", "run", "similar"]
