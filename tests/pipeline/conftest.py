"""Real contents for real models, and a server of models that misbehaves."""

import io
import random
from collections.abc import Iterator

import pytest

from pipeline.demo import catalogue
from tests.support.moody_server import Moody

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


@pytest.fixture
def server() -> Iterator[Moody]:
    """A server of captions and vectors that answers well until a test gives it moods."""
    moody = Moody()
    yield moody
    moody.shutdown()
    moody.server_close()
