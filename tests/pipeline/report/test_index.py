"""`cm3 ui`: the pages of a store, asked for over HTTP."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from pipeline.report import index
from pipeline.report.ui import bound
from pipeline.store import Store
from schemas import tables as contract
from schemas.errors import UserError
from schemas.lineage import Lineage
from tests.support.small_run import publish as demo_run

HOSTILE = "<script>window.hacked=1</script>"


def publish(store: Store, dataset: str, config: dict[str, str]) -> str:
    lineage = Lineage(
        dataset=dataset, table="features/clip", stage="features", stage_version=1, config=config,
        inputs={"images": "0123456789abcdef"}, encoder=HOSTILE,
    )  # fmt: skip
    with store.writer(contract.features(2), lineage) as out:
        rows = [{"item_id": "a", "content_hash": "h", "embedding": [1.0, 0.0]}]
        out.write(pa.Table.from_pylist(rows, schema=contract.features(2)))
    assert out.version is not None
    return out.version.version


@pytest.fixture
def client(store: Store) -> Iterator[httpx.Client]:
    with bound(store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}") as client:
            yield client
        server.shutdown()
        thread.join()


def test_an_empty_store_says_how_to_fill_it(client: httpx.Client) -> None:
    assert "cm3 run demo" in client.get("/").text


def test_data_sets_tables_versions_and_reports_can_be_reached_by_links(store: Store, client: httpx.Client) -> None:
    first, second = publish(store, "shop", {"a": "1"}), publish(store, "shop", {"a": HOSTILE})
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


def test_untrusted_names_and_values_are_escaped_and_no_script_may_run(store: Store, client: httpx.Client) -> None:
    publish(store, "a b&<i>", {"a": HOSTILE})
    pages = [
        client.get(path) for path in ("/", "/a%20b%26%3Ci%3E", "/a%20b%26%3Ci%3E/table/features/clip", "/<script>")
    ]
    assert [page.status_code for page in pages] == [200, 200, 200, 404]
    for page in pages:
        assert "<script" not in page.text
        assert "<i>" not in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "&lt;script&gt;window.hacked=1" in pages[2].text


def test_only_what_the_store_lists_is_served(store: Store, client: httpx.Client, tmp_path: Path) -> None:
    publish(store, "shop", {})
    (tmp_path / "secret.html").write_text("secret")
    places = ("shop/report/%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret", "shop/report/x", "%2e%2e", "shop/table/items", "_cache")
    for place in (*places, "shop/other/thing"):
        answer = client.get(f"/{place}")
        assert answer.status_code == 404
        assert "secret" not in answer.text.replace("%2fsecret", "").replace("../secret", "")


def test_a_request_under_another_hosts_name_is_refused(store: Store, client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_taken_port_is_reported(store: Store) -> None:
    with bound(store) as server, pytest.raises(UserError, match="Choose another"), bound(store, server.server_port):
        pass


def test_looking_at_a_store_without_a_registry_makes_none(store: Store, client: httpx.Client) -> None:
    publish(store, "shop", {})
    assert "No embeddings were registered yet" in client.get("/shop").text
    assert not (Path(store.root) / "_mlflow").exists()


def test_registered_versions_come_newest_first_with_aliases(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import registry
    from schemas.registry import RegistryConfig

    tracking = f"sqlite:///{store.root}-mlflow.db"
    tables = demo_run(store, items=24, users=20, side=48, epochs=2)
    again = tables | {"embeddings/items": demo_run(store, items=20, users=20, side=48)["embeddings/items"]}
    config = RegistryConfig(tracking=tracking)
    for version in (tables, again):
        registry.run(store=store, tables=version, parameters={}, config=config)
    versions, _ = index.registered(store, "demo", config)
    assert [(version.number, version.alias) for version in versions] == [(2, "challenger"), (1, "champion")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    page = index.respond(store, "/demo")[2].decode()
    assert page.index("challenger") < page.index("champion")
