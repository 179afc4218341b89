"""The registry of a store is made whole or not at all, and its failures are one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.registry import client, versions
from pipeline.store import Store
from schemas.errors import StoreError, UserError


def test_a_remote_store_without_a_server_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        client.connect(Store("memory://bucket"))


def test_a_folder_that_no_address_can_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("why?", "50%41"):
        with pytest.raises(UserError, match="Choose another folder"):
            client.check(Store(tmp_path / name))


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
