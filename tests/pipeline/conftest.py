"""Real contents for real models."""

import io
import random

import pytest

from pipeline.demo import catalogue

FIRST_SEED = 30_000_000
"""Drawings that neither the tiny LLaVA's training nor the demo's catalogue holds."""


@pytest.fixture(scope="session")
def drawings() -> list[bytes]:
    """Six pictures as the demo draws them, as JPEG."""
    pictures = []
    for seed in range(FIRST_SEED, FIRST_SEED + 6):
        out = io.BytesIO()
        catalogue.draw(catalogue.attributes(random.Random(seed)), seed).save(out, "JPEG")
        pictures.append(out.getvalue())
    return pictures
