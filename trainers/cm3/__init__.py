"""CM3, "Calibrating Multimodal Recommendation" (Zhou, Wang, Shen; arXiv 2508.01226)."""

from trainers.cm3.embed import embed
from trainers.cm3.train import run

__all__ = ["embed", "run"]
