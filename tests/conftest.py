"""What every test may ask for."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("trainers", "beartype.beartype")  # before anything imports them: shapes are checked in all tests

from pipeline.store import Store  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data kept outside the repository; its tests skip where it is absent."""
    folder = Path(os.environ.get("CM3_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set CM3_SHARED_DATA to the folder that holds it")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder of this test's own."""
    return Store(tmp_path / "store")
