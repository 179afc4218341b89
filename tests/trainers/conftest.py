"""A small catalogue with planted tastes, as Parquet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.world import World, draw_world


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more threads, which wait for each other where tests share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """60 users, 40 items, image and text features; some items lack one or both."""
    return draw_world().write(tmp_path / "world")


@pytest.fixture
def small_world(tmp_path: Path) -> Callable[..., World]:
    """The same, with the sizes or tables that a test asks for."""

    def write(name: str = "world", **changes: object) -> World:
        return draw_world(**changes).write(tmp_path / name)  # type: ignore[arg-type]

    return write
