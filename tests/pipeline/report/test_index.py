"""`cm3 serve`: the pages of a store, asked for over HTTP."""

from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from pipeline import registry
from pipeline.report import index
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import Lineage
from schemas.registry import RegistryConfig
from tests.pipeline.report.conftest import Run
from tests.support.published import publish, publish_images

HOSTILE = "<script>window.hacked=1</script>"


def publish_clip(store: Store, dataset: str, config: dict[str, str]) -> str:
    """A table whose encoder's name means harm; its version."""
    rows = [{"item_id": "a", "content_hash": "h", "embedding": [1.0, 0.0]}]
    table = pa.Table.from_pylist(rows, schema=contract.features(2))
    inputs = {"images": "0123456789abcdef"}
    version = publish(
        store, "features/clip", table, dataset=dataset, config=config, stage="features", inputs=inputs, encoder=HOSTILE
    )
    return version.version


def test_an_empty_store_says_how_to_fill_it(client: httpx.Client) -> None:
    assert "cm3 run demo" in client.get("/").text


def test_data_sets_tables_versions_and_reports_can_be_reached_by_links(store: Store, client: httpx.Client) -> None:
    first, second = publish_clip(store, "shop", {"a": "1"}), publish_clip(store, "shop", {"a": HOSTILE})
    publish_images(store, [("a", None)])
    store.put(f"shop/_reports/{second}.html", b"<title>the report</title>")
    assert 'href="/shop"' in client.get("/").text
    dataset = client.get("/shop").text
    assert 'href="/shop/table/features/clip"' in dataset
    assert f'href="/shop/report/{second}"' in dataset
    assert client.get(f"/shop/report/{second}").text == "<title>the report</title>"
    table = client.get("/shop/table/features/clip").text
    assert first in table
    assert second in table
    assert "fixed_size_list" in table
    assert 'href="/shop/table/images"' in table


def test_the_trained_model_has_a_page_without_columns(store: Store, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    made = Lineage(dataset="shop", table="model", stage="train", stage_version=1, config={"dim": 64})
    version = store.publish_files(made, [tmp_path / "config.json"], numbers=7)
    page = client.get("/shop/table/model")
    assert page.status_code == 200
    assert version.path in page.text
    assert "Nullable" not in page.text


def test_untrusted_names_and_values_are_escaped_and_no_script_may_run(store: Store, client: httpx.Client) -> None:
    publish_clip(store, "shop", {"a": HOSTILE})
    (Path(store.root) / "a b&<i>").mkdir()
    pages = [client.get(path) for path in ("/", "/a%20b%26%3Ci%3E", "/shop/table/features/clip", "/<script>")]
    assert [page.status_code for page in pages] == [200, 404, 200, 404]
    for page in pages:
        assert "<script" not in page.text
        assert "<i>" not in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "&lt;script&gt;window.hacked=1" in pages[2].text


def test_only_what_the_store_lists_is_served(store: Store, client: httpx.Client, tmp_path: Path) -> None:
    publish_clip(store, "shop", {})
    (tmp_path / "secret.html").write_text("secret")
    places = ("shop/report/%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret", "shop/report/x", "%2e%2e", "shop/table/items", "_cache")
    for place in (*places, "shop/other/thing"):
        answer = client.get(f"/{place}")
        assert answer.status_code == 404
        assert "secret" not in answer.text.replace("%2fsecret", "").replace("../secret", "")


def test_one_damaged_manifest_hides_no_other_data_set(store: Store, client: httpx.Client) -> None:
    publish_clip(store, "whole", {})
    version = publish_clip(store, "shop", {})
    store.put(f"shop/features/clip/{version}.json", b'{"dataset": "sh')
    page = client.get("/")
    assert page.status_code == 200
    assert 'href="/whole"' in page.text
    assert "published versions: none" in client.get("/shop/table/features/clip").text


def test_an_address_that_cannot_be_read_is_answered_with_400(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "["}).status_code == 400


def test_looking_at_a_store_without_a_registry_makes_none(store: Store, client: httpx.Client) -> None:
    publish_clip(store, "shop", {})
    assert "No embeddings were registered yet" in client.get("/shop").text
    assert not (Path(store.root) / "_mlflow").exists()


def test_registered_versions_come_newest_first_with_aliases(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tables = small_run
    fewer = store.read(tables["embeddings/items"]).slice(0, 40)
    again = {**tables, "embeddings/items": publish(Store(tmp_path), "embeddings/items", fewer, dataset="demo")}
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    config = RegistryConfig(tracking=tracking)
    address = index.reports(store, "demo")[0]["address"]
    for version, report in ((tables, address), (again, "demo/_reports/gone.html")):
        registry.run(store=store, tables=version, parameters={}, config=config, report=report)
    versions, _ = index.registered(store, "demo", config)
    assert [(version.number, version.alias) for version in versions] == [(2, "challenger"), (1, "champion")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    page = index.respond(store, "/demo")[2].decode()
    assert page.index("challenger") < page.index("champion")
    assert page.count('aria-label="Open the report of version') == 1
    name = Path(address).stem
    assert f'<a href="/demo/report/{name}" aria-label="Open the report of version 1"' in page
