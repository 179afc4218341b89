"""Real contents for real models, and a server of models that misbehaves."""

import io
import random
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

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
def moody() -> Iterator[Callable[..., Moody]]:
    """Starts servers of captions and vectors, each with its moods; without any it answers well."""
    servers: list[Moody] = []

    def start(*moods: Callable[[BaseHTTPRequestHandler], None]) -> Moody:
        servers.append(Moody(*moods))
        return servers[-1]

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(moody: Callable[..., Moody]) -> Moody:
    """A server of captions and vectors that answers well until a test gives it moods."""
    return moody()
