"""Captions of pictures, by a multimodal model on this machine or behind an endpoint."""

from pipeline.captions.stage import run

__all__ = ["run"]
