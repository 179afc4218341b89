"""The registry of a store is made whole or not at all, and its failures are one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.db import utils

from pipeline.registry import client, versions
from pipeline.store import Store
from schemas.errors import StoreError, UserError
from schemas.registry import RegistryConfig
from tests.support.registered import register, trained


def test_a_remote_store_without_a_server_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        client.connect(Store("memory://bucket"))


def test_a_folder_that_no_address_can_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("why?", "50%41"):
        with pytest.raises(UserError, match="Choose another folder"):
            client.check(Store(tmp_path / name))


@pytest.mark.slow
def test_a_database_half_made_by_a_killed_run_is_never_the_registrys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_database: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(client, "make_database", make_database)
    store = Store(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "search_registered_models", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.registered(store, "shop")
    assert list((tmp_path / "_mlflow").iterdir()) == []
    assert versions.registered(store, "shop") == []


def test_a_registry_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_mlflow").mkdir()
    (tmp_path / "_mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"The registry of .* failed: .*not a database"):
        versions.registered(Store(tmp_path), "shop")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match="Is MLFLOW_TRACKING_URI right") as caught:
        versions.registered(Store(tmp_path), "shop")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:9/d", "Connection refused"),
        ("mssql://u:secret@h/d", "No module named 'pyodbc'"),
    ],
    ids=["psycopg is taken", "no driver"],
)
def test_a_database_needs_no_drivers_name_and_one_without_driver_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 0)  # MLflow's ten attempts take minutes
    with pytest.raises(StoreError, match=f"failed: .*{said}.*driver installed") as caught:
        versions.registered(store, "shop", RegistryConfig(tracking=address))
    assert "secret" not in str(caught.value)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_database: Callable[[Path], None]) -> None:
    """A tracking server that every store of this test uses."""
    make_database(tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")


@pytest.mark.usefixtures("server")
def test_two_stores_on_one_server_do_not_judge_each_others_versions(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    register(ours, trained(ours, seed=0, ndcg=0.3))
    assert versions.registered(theirs, "shop") == []
    assert register(theirs, trained(theirs, seed=1, ndcg=0.1)).alias == "champion"
    assert [len(versions.registered(store, "shop")) for store in (ours, theirs)] == [1, 1]
    for store, seed in ((ours, 0), (theirs, 1)):
        champion = versions.resolve(store, "shop/metrics@champion")
        assert champion.version == trained(store, seed=seed, ndcg=(0.3, 0.1)[seed])["metrics"].version


@pytest.mark.usefixtures("server")
def test_a_moved_store_keeps_its_versions_on_a_shared_server_and_a_copy_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "first")
    register(store, trained(store, seed=0, ndcg=0.3))
    copy = Store(shutil.copytree(store.root, tmp_path / "copy"))
    with pytest.raises(UserError, match=r"is a copy of .*first, which keeps its versions on the same MLflow server"):
        client.ready(copy, "shop")
    shutil.rmtree(store.root)
    assert len(versions.registered(copy, "shop")) == 1, "what is no longer there was moved"
    (Path(copy.root) / "_mlflow" / "store").unlink()
    assert versions.registered(copy, "shop") == []


def test_a_copied_store_names_no_folder_and_its_runs_write_nothing_into_the_original(tmp_path: Path) -> None:
    store = Store(tmp_path / "original")
    register(store, trained(store, seed=0, ndcg=0.3))
    files = sorted(path for path in Path(store.root).rglob("*") if path.is_file())
    database = Path(store.root) / "_mlflow" / "mlflow.db"
    assert str(store.root).encode() not in database.read_bytes()
    before = [path.read_bytes() for path in files]
    copy = Store(shutil.copytree(store.root, tmp_path / "copy"))
    assert register(copy, trained(copy, seed=1, ndcg=0.4)).number == 2
    assert versions.resolve(copy, "shop/embeddings/items@1").path.startswith(copy.root)
    assert sorted(path for path in Path(store.root).rglob("*") if path.is_file()) == files
    assert [path.read_bytes() for path in files] == before


def test_a_deleted_experiment_is_said_before_the_work_with_the_way_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    client.ready(store, "shop")
    assert list(tmp_path.iterdir()) == [], "asking makes no registry"
    tables = trained(store, seed=0, ndcg=0.3)
    register(store, tables)
    mlflow = client.connect(store)
    mlflow.delete_experiment(mlflow.get_experiment_by_name("shop").experiment_id)
    with pytest.raises(
        UserError, match=r"experiment 'shop', .* was deleted.*mlflow experiments restore --experiment-id"
    ):
        client.ready(store, "shop")
