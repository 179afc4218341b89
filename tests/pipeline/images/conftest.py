"""What the tests of the images stage share."""

from collections.abc import Iterator

import pytest

from tests.support.chaos_server import ChaosServer


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    """A server that misbehaves as its paths say."""
    with ChaosServer() as server:
        yield server
