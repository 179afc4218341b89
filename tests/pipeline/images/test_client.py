"""One guarded request: bodies of bounded size, files under one folder, validators and logins."""

import asyncio
import hashlib
import io
from base64 import b64encode
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.images import client as client_module
from pipeline.images.client import SMALL_BODY, Client
from pipeline.images.outcome import Fetched
from pipeline.store import Store
from schemas.images import ImagesConfig
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, jpeg, redirect
from tests.support.images_stage import fetch_files, image_rows


def test_a_picture_of_several_megabytes_arrives_whole_up_to_the_limit(store: Store, server: ChaosServer) -> None:
    out = io.BytesIO()
    Image.new("RGB", (1200, 1000), "red").save(out, "BMP")
    server.pictures["/good/1"] = out.getvalue()
    size = len(out.getvalue())
    assert size > SMALL_BODY
    urls = [server.url("/good/1")]
    assert image_rows(store, urls, max_bytes=size - 1)[0]["status"] == "too_large"
    (row,) = image_rows(store, urls, max_bytes=size)
    assert (row["status"], row["sha256"]) == ("ok", hashlib.sha256(out.getvalue()).hexdigest())


class Scope(AsyncExitStack):
    """Says when a request is about to wait for a place."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = asyncio.Event()

    async def enter_async_context(self, cm: AbstractAsyncContextManager[Any, Any]) -> Any:
        self.wanted.set()
        return await super().enter_async_context(cm)


def test_the_wait_for_a_place_is_not_counted_against_a_picture(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = 2
    monkeypatch.setattr(client_module, "LARGE_BODIES", places)
    server.pictures = {f"/good/{n}": bytes(SMALL_BODY + 1_000_000) for n in range(places + 1)}

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        config = ImagesConfig(allowed_hosts=("127.0.0.1",))
        async with Client(config) as client, Scope() as scope:
            async with AsyncExitStack() as others:
                for n in range(places):
                    await client.fetch(server.url(f"/good/{n}"), None, others)
                waiting = asyncio.create_task(client.fetch(server.url(f"/good/{places}"), None, scope))
                await scope.wanted.wait()
                time, late = loop.time, 2 * config.total_timeout
                monkeypatch.setattr(loop, "time", lambda: time() + late)
                for _ in range(10):
                    await asyncio.sleep(0)
            fetched = await waiting
            assert isinstance(fetched, Fetched)
            assert fetched.body == server.pictures[f"/good/{places}"]

    asyncio.run(scenario())


def test_a_slow_loris_is_cut_off_by_the_total_time(store: Store, server: ChaosServer) -> None:
    loris, picture = image_rows(
        store,
        [server.url("/slow-loris"), server.url("/good/1")],
        connect_timeout=2.0,
        read_timeout=2.0,
        total_timeout=2.0,
        attempts=2,
    )
    assert (loris["status"], loris["error"]) == ("timeout", "not finished within 2 s")
    assert picture["status"] == "ok"


@pytest.mark.parametrize("header", [{"ETag": '"caf\xe9"'}, {"Last-Modified": "\xff\xfe"}, {"ETag": '"a\x01"'}])
def test_a_validator_that_is_not_printable_ascii_is_ignored(
    store: Store, server: ChaosServer, header: dict[str, str]
) -> None:
    server.validators = {name.replace("-", "_"): value for name, value in header.items()}
    urls = [server.url("/good/1")]
    for revalidate in (False, True):
        (row,) = image_rows(store, urls, revalidate=revalidate)
        assert (row["status"], row["error"]) == ("ok", None)
    assert server.counts["/good/1"] == 2
    assert not any({"if-none-match", "if-modified-since"} & request.headers.keys() for request in server.requests)


def test_files_are_read_only_under_the_folder_the_run_names(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "a b.jpg").write_bytes(jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(jpeg(2))
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    urls = [
        (root / "a b.jpg").as_uri(),
        (root / "none.jpg").as_uri(),
        (root / "link.jpg").as_uri(),
        f"file://{root}/../secret.jpg",
    ]
    inside = image_rows(store, urls, file_root=str(root))
    assert [row["status"] for row in inside] == ["ok", "not_found", "blocked_address", "blocked_address"]
    outside = image_rows(store, urls[:1] + urls[2:], file_root=str(root / "another"))
    assert {row["status"] for row in outside} == {"blocked_address"}


def test_a_link_out_of_the_folder_is_named_and_followed_where_the_operator_says_so(
    store: Store, tmp_path: Path
) -> None:
    shop, disk = tmp_path / "shop", tmp_path / "disk"
    for folder in (shop, disk):
        folder.mkdir()
    (disk / "a.jpg").write_bytes(jpeg(1))
    (shop / "img").symlink_to(disk)
    (shop / "b.jpg").symlink_to(disk / "a.jpg")
    urls = [f"{shop.as_uri()}/img/a.jpg", f"{shop.as_uri()}/b.jpg"]
    refused = image_rows(store, urls, file_root=str(shop))
    assert {row["status"] for row in refused} == {"blocked_address"}
    for row, link in zip(refused, ("img", "b.jpg"), strict=True):
        assert row["error"].startswith(f"{shop / link} is a link that leads out of images.file_root")
        assert row["error"].endswith(f"add {disk} to images.allowed_folders")
    allowed = image_rows(store, urls, file_root=str(shop), allowed_folders=(str(disk),))
    assert {row["status"] for row in allowed} == {"ok"}


def test_files_that_may_not_be_read_are_rows_and_those_beside_them_are_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may read everything."""
    paths = [tmp_path / f"{number:02d}.jpg" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(number))
    read = Path.read_bytes

    def guarded(path: Path) -> bytes:
        if path in paths[:30]:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    rows = image_rows(store, [path.as_uri() for path in paths], file_root=str(tmp_path))
    assert [row["status"] for row in rows] == ["forbidden"] * 30 + ["ok"] * 10
    assert rows[0]["error"] == "the file may not be read"


def fetch(url: str) -> None:
    fetch_files(ImagesConfig(allowed_hosts=("127.0.0.1", "localhost")), url)


def test_a_user_named_in_a_url_is_authorized_at_its_own_host_only(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChaosServer() as other:
        monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect("/away"))
        monkeypatch.setitem(BEHAVIOURS, "/away", redirect(other.url("/picture/1")))
        fetch(server.url("/redirect", host="us%C3%A9r:p%40:w@127.0.0.1"))
    sent = "Basic " + b64encode("usér:p@:w".encode()).decode()
    assert [request.headers.get("authorization") for request in server.requests] == [sent, sent]
    assert [request.headers.get("authorization") for request in other.requests] == [None]
    assert [request.headers["host"] for request in server.requests] == [f"127.0.0.1:{server.port}"] * 2


def test_a_login_of_the_machine_goes_to_its_host_and_port_alone(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entries = f"machine 127.0.0.1:{server.port} login usér password p@:w", "machine localhost login a password b"
    (tmp_path / "netrc").write_text("\n".join(entries) + "\ndefault login x password y\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(server.url("/picture/2", host="localhost")))
    fetch(server.url("/picture/1"))
    fetch(server.url("/picture/1", host="other:@127.0.0.1"))
    fetch(server.url("/redirect"))
    machine, other = (f"Basic {b64encode(login.encode()).decode()}" for login in ("usér:p@:w", "other:"))
    assert [request.headers.get("authorization") for request in server.requests] == [machine, other, machine, None]
    server.requests.clear()
    with ChaosServer() as neighbour:
        fetch(neighbour.url("/picture/1"))
        assert [request.headers.get("authorization") for request in neighbour.requests] == [None]
