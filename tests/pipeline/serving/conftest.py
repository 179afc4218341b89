"""A store whose drawn shop has two registered versions, of which the first is champion."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.registry import versions
from pipeline.store import Store
from tests.support.registered import register
from tests.support.service import Service, serving
from tests.support.shop import Shop, draw, published

Shops = dict[str, Shop]


@pytest.fixture(scope="package")
def shops() -> Shops:
    """Version → what it was made from."""
    return {"1": draw(seed=1), "2": draw(seed=2)}


@pytest.fixture(scope="package")
def registered(shops: Shops, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store's folder; tests that change it take a copy."""
    store = Store(tmp_path_factory.mktemp("shops") / "store")
    for shop in shops.values():
        register(store, published(store, shop))
    versions.promote(store, "shop", "1")
    return Path(store.root)


@pytest.fixture(scope="package")
def service(registered: Path) -> Iterator[Service]:
    """The service on that store, for tests that only ask."""
    with serving(Store(registered)) as service:
        yield service


@pytest.fixture
def own(registered: Path, tmp_path: Path) -> Store:
    """A copy of the store, for tests that change it."""
    return Store(shutil.copytree(registered, tmp_path / "own"))
