"""`publish_feature` into each test's own store."""

from collections.abc import Callable
from functools import partial

import pytest

from pipeline.store import Store
from schemas.lineage import TableVersion
from tests.support.similarity_graphs import publish_feature

Publish = Callable[..., TableVersion]


@pytest.fixture
def publish(store: Store) -> Publish:
    """`publish_feature` into this test's store."""
    return partial(publish_feature, store)
