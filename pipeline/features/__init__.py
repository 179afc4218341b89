"""Vectors of one feature for every item, by an encoder of ours or imported."""

from pipeline.features.stage import run

__all__ = ["run"]
