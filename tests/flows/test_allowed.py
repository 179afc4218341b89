"""Runs that come through Prefect's API stay in the places that the operator named."""

from pathlib import Path
from typing import Any

import pytest

from flows import allowed, extract, ingest_and_train, re_extract
from schemas.errors import UserError
from schemas.run import CatalogueParameters


def parameters(**fields: Any) -> CatalogueParameters:
    return CatalogueParameters(**({"raw": "/raw/shop", "store": "s3://cm3/features"} | fields))


@pytest.fixture(autouse=True)
def _confined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(allowed.STORES, "s3://cm3/features")
    monkeypatch.setenv(allowed.RAW, "/raw, https://files.example/shop")
    monkeypatch.setenv(allowed.CLUSTERS, "tcp://scheduler:8786")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"store": "s3://cm3/features/team"},
        {"raw": "https://files.example/shop/2026"},
        {"raw": "file:///raw/shop"},
        {"cluster": "tcp://scheduler:8786"},
        {"registry": {"tracking": "http://mlflow:5000"}},
        {"image_url": "images/{item_id}.jpg"},
        {"images": {"file_root": "/raw/pictures", "allowed_hosts": []}},
    ],
)
def test_a_run_inside_its_places_is_let_through(fields: dict[str, Any]) -> None:
    allowed.check(parameters(**fields))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("store", {"store": "s3://cm3/featuresX"}),
        ("store", {"store": "s3://other/features"}),
        ("store", {"store": "s3://cm3/features/../_mlflow"}),
        ("store", {"store": "s3://cm3/features/%2e%2e/x"}),
        ("store", {"store": "simplecache::s3://cm3/features"}),
        ("store", {"store": "s3://cm3/features::file:///tmp/x"}),
        ("store", {"store": "/tmp/evil"}),
        ("store", {"store": "store"}),
        ("store", {"store": "memory://x"}),
        ("raw", {"raw": "/etc"}),
        ("raw", {"raw": "/raw/../etc"}),
        ("raw", {"raw": "/rawest"}),
        ("raw", {"raw": "file:///raw/%2e%2e/etc"}),
        ("raw", {"raw": "https://files.example.evil.example/shop"}),
        ("raw", {"raw": "https://files.example@evil.example/shop"}),
        ("raw", {"raw": "http://files.example/shop"}),
        ("raw", {"raw": "https://files.example:8443/shop"}),
        ("image_url", {"image_url": "http://10.0.0.1/{item_id}"}),
        ("images.file_root", {"images": {"file_root": "/"}}),
        ("images.allowed_hosts", {"images": {"allowed_hosts": ["10.0.0.1:6379"]}}),
        ("imported.x", {"imported": {"x": {"path": "/etc/passwd", "format": "parquet"}}}),
        ("cluster", {"cluster": "tcp://evil.example:8786"}),
        ("registry.tracking", {"registry": {"tracking": "http://evil.example"}}),
    ],
)
def test_a_run_that_would_leave_its_places_is_refused_by_the_parameters_name(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{name} "):
        allowed.check(parameters(**fields))


def test_a_link_does_not_lead_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside, outside = tmp_path / "raw", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    monkeypatch.setenv(allowed.RAW, str(inside))
    allowed.check(parameters(raw=str(inside)))
    with pytest.raises(UserError, match="raw"):
        allowed.check(parameters(raw=str(inside / "link")))


def test_shortened_urls_of_this_machine_are_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(allowed.STORES, str(tmp_path))
    allowed.check(parameters(store="store"))
    for store in ("file:/etc", "local:/etc", "LOCAL:///etc", "file://etc"):
        with pytest.raises(UserError, match="store"):
            allowed.check(parameters(store=store))


def test_without_a_list_every_place_is_allowed_and_an_empty_one_allows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (allowed.STORES, allowed.RAW, allowed.CLUSTERS):
        monkeypatch.delenv(variable)
    allowed.check(parameters(store="/tmp/x", raw="/etc", cluster="tcp://anywhere:1"))
    monkeypatch.setenv(allowed.RAW, "")
    with pytest.raises(UserError, match="allowed: none"):
        allowed.check(parameters())


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (ingest_and_train.main_job, CatalogueParameters),
        (re_extract.body, CatalogueParameters),
        (extract.body, extract.PARAMETERS["catalogue"]),
    ],
)
def test_every_flow_asks_before_any_work(body: Any, model: Any, tmp_path: Path) -> None:
    store = tmp_path / "evil"
    with pytest.raises(UserError, match=r"store .* allows no run there"):
        body(model(raw="/raw/shop", store=str(store)))
    assert not store.exists()
