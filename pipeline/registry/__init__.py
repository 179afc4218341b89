"""Registered versions of the embeddings: which one is champion, what changed, what may go."""

from pipeline.registry.stage import run

__all__ = ["run"]
