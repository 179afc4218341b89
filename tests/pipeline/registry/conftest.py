"""A registry with three versions, shared by the tests that only look at it."""

import pytest

from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.registry import Registered
from tests.support.registered import register, trained

Shop = tuple[Store, list[Registered], list[dict[str, TableVersion]]]


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three versions, as registered, and their tables: the first, a worse one, a better one."""
    store = Store(tmp_path_factory.mktemp("shop"))
    tables = [trained(store, seed=seed, ndcg=ndcg) for seed, ndcg in ((0, 0.20), (1, 0.15), (2, 0.25))]
    return store, [register(store, t) for t in tables], tables
