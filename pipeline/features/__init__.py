"""Vectors of one feature for every item: made by an encoder, or imported."""

from pipeline.features.stage import run

__all__ = ["run"]
