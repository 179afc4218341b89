"""Real contents for real models, which are loaded once."""

import functools
import io
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo import catalogue
from pipeline.encoders import load, offline
from pipeline.encoders.base import Encoder
from schemas.encoders import EncoderSpec

FIRST_SEED = 30_000_000
"""Drawings that are neither in the tiny LLaVA's training nor in the demo's catalogue."""
TEXTS = [
    "a red striped mug",
    "Gift card for a very long list of reasons, " * 30,
    "",
    "x",
    "A lamp that Öttingen's grandmother would have liked — 40 cm, E27, 中文",
    "a blue mug",
]


@pytest.fixture(scope="session")
def drawings() -> list[bytes]:
    """Six pictures as the demo draws them, as JPEG."""
    pictures = []
    for seed in range(FIRST_SEED, FIRST_SEED + 6):
        out = io.BytesIO()
        catalogue.draw(catalogue.attributes(random.Random(seed)), seed).save(out, "JPEG")
        pictures.append(out.getvalue())
    return pictures


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """A timm model folder that the test may change."""
    return Path(shutil.copytree(offline.unpack("efficientnet-lite0"), tmp_path / "model"))


@functools.cache
def encoder_of(spec: EncoderSpec) -> Encoder:
    """The encoder of `spec`, for tests that change nothing in it."""
    return load.load(spec)


def timm_at(folder: Path) -> EncoderSpec:
    """The spec of a timm model in a folder."""
    return EncoderSpec(kind="timm", model=str(folder))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row of `a` with the same row of `b`."""
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
