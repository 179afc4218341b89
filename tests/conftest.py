"""What every test may ask for."""

import contextlib
import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

gc.disable()  # until all is imported: nothing of it is garbage, and looking for some takes a fifth of that time
install_import_hook("trainers", "beartype.beartype")  # before anything imports them: shapes are checked in all tests

from pipeline.registry import client  # noqa: E402
from pipeline.store import Store  # noqa: E402
from schemas.run import RunSummary  # noqa: E402
from tests.support.schedule import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: E402, F401
from tests.support.small_demo import small_demo  # noqa: E402

ROOT = Path(__file__).parent.parent


def pytest_collection_finish() -> None:
    """From now on look for garbage, but not again among what was imported."""
    gc.freeze()
    gc.enable()


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


@contextlib.contextmanager
def made_once(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A path that test processes which run side by side share, while one of them has it alone to make or copy it."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


@pytest.fixture(scope="session", autouse=True)
def make_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], None]]:
    """MLflow takes seconds to make a registry's database: one is made, and each store's begins as its copy.

    The fixture is the function that really makes one, for the tests that are about it.
    """
    make = client.make_database

    def copy(database: Path) -> None:
        with made_once(tmp_path_factory, "registry.db") as template:
            if not template.exists():
                make(template)
            shutil.copyfile(template, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "make_database", copy)
        yield make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, RunSummary]]:
    """A store after one run of the small demo with real models, and the run's summary.

    Test processes that run side by side share the run; each has a copy of its store. All tests of a process share that
    copy, in an order that is not theirs to choose: a test that runs the job again does so in a copy of its own.
    """
    with made_once(tmp_path_factory, "small-demo") as shared:
        if not (shared / "demo/_runs/latest.json").exists():
            from flows import job

            job.run(parameters=small_demo(shared))
    folder = Path(shutil.copytree(shared, tmp_path_factory.mktemp("finished") / "store"))
    for record in folder.glob("demo/_runs/*.json"):
        record.write_text(record.read_text().replace(str(shared), str(folder)))
    latest = {pointer: pointer.read_text() for pointer in folder.glob("demo/**/latest")}
    yield Store(folder), RunSummary.model_validate_json((folder / "demo/_runs/latest.json").read_bytes())
    moved = [pointer.parent.name for pointer, version in latest.items() if pointer.read_text() != version]
    assert not moved, f"A test published {moved} in the store that all tests share: let it copy the store first."
