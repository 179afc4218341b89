"""The images stage against a server that misbehaves: every picture is a row, nothing is asked for twice."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trustme
from PIL import Image

from pipeline.images import stage as images
from pipeline.images.client import SMALL_BODY
from pipeline.images.kept import KeptImages
from pipeline.images.outcome import PictureError
from pipeline.store import Store
from schemas.images import ImagesConfig
from schemas.lineage import Lineage, TableVersion
from schemas.tables import IMAGES, ITEMS, ImageStatus
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, Request, answer, good, jpeg, redirect, reset, status

ROOT = Path(__file__).parents[3]

FAST: dict[str, Any] = {
    "allowed_hosts": ("127.0.0.1",),
    "backoff": 0.0,
    "connect_timeout": 5.0,
    "read_timeout": 1.0,
    "total_timeout": 10.0,
    "max_bytes": 200_000,
    "max_pixels": 10_000_000,
    "attempts": 3,
}


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    with ChaosServer() as server:
        yield server


def config(**changes: Any) -> ImagesConfig:
    return ImagesConfig(**(FAST | changes))


def publish_items(store: Store, urls: Sequence[str | None], galleries: Sequence[list[str]] = ()) -> TableVersion:
    rows = [
        {"item_id": f"item {n}", "categories": [], "image_url": url, "gallery_urls": gallery}
        for n, (url, gallery) in enumerate(zip_longest(urls, galleries))
    ]
    lineage = Lineage(dataset="d", table="items", stage="test", stage_version=1, config={"rows": rows})
    with store.writer(ITEMS, lineage) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=ITEMS))
    assert writer.version is not None
    return writer.version


def fetch(store: Store, urls: list[str | None], **changes: Any) -> list[dict[str, Any]]:
    items = publish_items(store, urls)
    return store.read(images.run(store=store, items=items, config=config(**changes))).to_pylist()


EXPECTED = {
    "/404": "not_found",
    "/410": "not_found",
    "/403": "forbidden",
    "/400": "http_error",
    "/429-for-long": "rate_limited",
    "/429-then-fine": "ok",
    "/500": "http_error",
    "/500-then-fine": "ok",
    "/silent": "timeout",
    "/endless": "too_large",
    "/announced-too-large": "too_large",
    "/gzip-bomb": "too_large",
    "/wrong-length": "connect_error",
    "/redirect": "ok",
    "/redirect-loop": "redirect_error",
    "/redirect-nowhere": "redirect_error",
    "/redirect-to-private": "blocked_address",
    "/redirect-to-loopback-name": "blocked_address",
    "/redirect-to-mapped": "blocked_address",
    "/redirect-to-metadata": "blocked_address",
    "/redirect-to-file": "redirect_error",
    "/html": "not_an_image",
    "/png-bomb": "too_many_pixels",
    "/huge-png-bomb": "too_many_pixels",
    "/empty": "empty",
    "/truncated": "decode_error",
    "/reset": "connect_error",
    "/not-http": "http_error",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest resets the stage's own filter
@pytest.mark.timeout(60)
def test_every_misbehaviour_is_the_right_row_and_all_good_pictures_beside_it_arrive(
    store: Store, server: ChaosServer
) -> None:
    urls: list[str | None] = []
    for number, path in enumerate(EXPECTED):
        urls += [server.url(path), server.url(f"/good/{number}")]
    rows = fetch(store, urls)
    assert [row["item_id"] for row in rows] == [f"item {n}" for n in range(len(urls))]
    assert {path: row["status"] for path, row in zip(EXPECTED, rows[::2], strict=True)} == EXPECTED
    assert [row["status"] for row in rows[1::2]] == ["ok"] * len(EXPECTED)
    for row in rows:
        assert (row["image"] is None) == (row["status"] != "ok") == (row["width"] is None) == (row["error"] is not None)


@pytest.mark.timeout(60)
def test_a_slow_loris_is_cut_off_by_the_total_time(store: Store, server: ChaosServer) -> None:
    loris, picture = fetch(
        store,
        [server.url("/slow-loris"), server.url("/good/1")],
        connect_timeout=2.0,
        read_timeout=2.0,
        total_timeout=2.0,
        attempts=1,
    )
    assert (loris["status"], loris["error"]) == ("timeout", "not finished within 2 s")
    assert picture["status"] == "ok"


def test_names_and_certificates_that_fail_are_rows(store: Store, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    contexts = [issuer_context(authority, "127.0.0.1"), issuer_context(stranger, "127.0.0.1")]
    wrong_name = issuer_context(authority, "elsewhere.example")
    with (
        ChaosServer(tls=contexts[0]) as trusted,
        ChaosServer(tls=contexts[1]) as untrusted,
        ChaosServer(tls=wrong_name) as misnamed,
    ):
        rows = fetch(
            store,
            [
                trusted.url("/good/1"),
                untrusted.url("/good/1"),
                misnamed.url("/good/1"),
                "http://no-such-host.invalid/x.jpg",
                "http://127.0.0.1:1/x.jpg",
            ],
            ca_file=str(tmp_path / "ca.pem"),
        )
    assert [row["status"] for row in rows] == [
        "ok",
        "tls_error",
        "tls_error",
        "dns_error",
        "connect_error",
    ]
    assert untrusted.counts.total() == misnamed.counts.total() == 0


def issuer_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_what_is_no_public_address_is_never_connected_to(store: Store, server: ChaosServer) -> None:
    hosts = ("localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0.0.0.0", "[::ffff:7f00:1]")
    rows = fetch(store, [server.url("/good/1", host=host) for host in hosts], allowed_hosts=())
    assert {row["status"] for row in rows} == {"blocked_address"}
    assert server.counts.total() == 0
    (row,) = fetch(store, [server.url("/good/1")], allowed_hosts=(f"127.0.0.1:{server.port + 1}",))
    assert row["status"] == "blocked_address"


def test_missing_and_malformed_urls_are_rows(store: Store) -> None:
    rows = fetch(
        store, [None, "  ", "not a url", "ftp://127.0.0.1/x", "data:image/png;base64,AA", "http://", "http://[::1"]
    )
    assert [row["status"] for row in rows] == ["no_url"] * 2 + ["invalid_url"] * 5
    assert [row["url"] for row in rows[:2]] == [None, None]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("host", ["xn--", "xn--99999999.com", "a..b", "cdn.xn--a"])
def test_a_malformed_host_is_a_row_and_its_neighbour_arrives(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch, host: str, http2: bool
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect-as-told", redirect(f"http://{host}/x.jpg"))
    urls: list[str | None] = [f"http://{host}/x.jpg", server.url("/redirect-as-told"), server.url("/good/1")]
    malformed, redirected, good = fetch(store, urls, http2=http2)
    assert malformed["status"] == "invalid_url"
    assert redirected["status"] in ("invalid_url", "redirect_error")
    assert good["status"] == "ok"


def test_a_picture_is_stored_small_with_the_digest_of_the_original(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/1"] = original = jpeg(1, (600, 300))
    (row,) = fetch(store, [server.url("/good/1")], max_side=100)
    assert (row["width"], row["height"]) == (100, 50)
    stored = Image.open(io.BytesIO(row["image"]))
    assert (stored.format, stored.size) == ("JPEG", (100, 50))
    assert row["sha256"] == hashlib.sha256(original).hexdigest()


def test_a_picture_of_several_megabytes_arrives_whole_up_to_the_limit(store: Store, server: ChaosServer) -> None:
    out = io.BytesIO()
    Image.new("RGB", (1200, 1000), "red").save(out, "BMP")
    server.pictures["/good/1"] = out.getvalue()
    size = len(out.getvalue())
    assert size > SMALL_BODY
    urls: list[str | None] = [server.url("/good/1")]
    assert fetch(store, urls, max_bytes=size - 1)[0]["status"] == "too_large"
    (row,) = fetch(store, urls, max_bytes=size)
    assert (row["status"], row["sha256"]) == ("ok", hashlib.sha256(out.getvalue()).hexdigest())


def test_a_second_run_asks_nothing_and_returns_the_version_there_is(store: Store, server: ChaosServer) -> None:
    items = publish_items(store, [server.url("/good/1"), server.url("/404"), server.url("/html"), None])
    first = images.run(store=store, items=items, config=config())
    asked = server.counts.total()
    again = images.run(store=store, items=items, config=config(concurrency=3, backoff=9.0))
    assert (again.version, again.reused, first.reused) == (first.version, True, False)
    assert server.counts.total() == asked


def test_a_later_run_asks_only_for_what_failed_for_a_passing_reason(store: Store, server: ChaosServer) -> None:
    items = publish_items(store, [server.url("/500-thrice-then-fine"), server.url("/404"), server.url("/good/1")])
    versions = [images.run(store=store, items=items, config=config(attempts=1)) for _ in range(5)]
    assert [version.reused for version in versions] == [False, True, True, False, True]
    assert versions[0].version == versions[1].version == versions[2].version != versions[3].version
    assert server.counts == {"/500-thrice-then-fine": 4, "/404": 1, "/good/1": 1}
    assert store.latest("d", "images").version == versions[4].version
    assert [row["status"] for row in store.read(versions[4]).to_pylist()] == ["ok", "not_found", "ok"]


@pytest.mark.parametrize("http2", [False, True])
def test_a_picture_cut_off_without_its_length_announced_is_asked_for_again(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch, http2: bool
) -> None:
    async def cut_at_first(_: ChaosServer, request: Request) -> None:
        picture = jpeg(1, (400, 400))
        arriving = picture[:-700] if request.seen == 1 else picture
        request.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + arriving)
        request.writer.close()

    monkeypatch.setitem(BEHAVIOURS, "/cut-at-first", cut_at_first)
    found = [fetch(store, [server.url("/cut-at-first")], http2=http2)[0]["status"] for _ in range(2)]
    assert found == ["connect_error", "ok"]


def test_lifting_a_limit_asks_again_for_what_it_refused(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/1"] = jpeg(1, (300, 300))
    urls: list[str | None] = [server.url("/good/1"), server.url("/good/2")]
    assert [row["status"] for row in fetch(store, urls, max_pixels=10_000)] == ["too_many_pixels", "ok"]
    assert [row["status"] for row in fetch(store, urls)] == ["ok", "ok"]
    assert server.counts["/good/2"] == 1


def test_equal_urls_are_fetched_once_and_equal_bytes_stored_once(store: Store, server: ChaosServer) -> None:
    server.pictures = {"/good/1": jpeg(1), "/good/2": jpeg(1), "/good/3": jpeg(1)}
    urls: list[str | None] = [server.url(f"/good/{n}") for n in (1, 2, 1, 1, 3)]
    rows = fetch(store, urls)
    assert server.counts == {"/good/1": 1, "/good/2": 1, "/good/3": 1}
    assert len({row["image"] for row in rows}) == 1
    assert len(KeptImages(store, config()).pictures) == 1


@pytest.mark.parametrize("header", [{"ETag": '"v1"'}, {"Last-Modified": "Tue, 01 Sep 2026 10:00:00 GMT"}])
def test_revalidation_asks_conditionally_and_changes_only_what_changed(
    store: Store, server: ChaosServer, header: dict[str, str]
) -> None:
    server.validators = {name.replace("-", "_"): value for name, value in header.items()}
    items = publish_items(store, [server.url("/good/1")])
    first = images.run(store=store, items=items, config=config())
    assert images.run(store=store, items=items, config=config(revalidate=True)).version == first.version
    assert images.run(store=store, items=items, config=config(revalidate=True, max_age=3600.0)).reused
    assert server.counts["/good/1"] == 2
    server.validators, server.pictures = {}, {"/good/1": jpeg(9)}
    changed = images.run(store=store, items=items, config=config(revalidate=True))
    assert changed.version != first.version
    assert store.read(changed)["sha256"] != store.read(first)["sha256"]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("header", [{"ETag": '"caf\xe9"'}, {"Last-Modified": "\xff\xfe"}, {"ETag": '"a\x01"'}])
def test_a_validator_that_is_not_printable_ascii_is_ignored(
    store: Store, server: ChaosServer, header: dict[str, str], http2: bool
) -> None:
    server.validators = {name.replace("-", "_"): value for name, value in header.items()}
    urls: list[str | None] = [server.url("/good/1")]
    for revalidate in (False, True):
        (row,) = fetch(store, urls, http2=http2, revalidate=revalidate)
        assert (row["status"], row["error"]) == ("ok", None)
    assert server.counts["/good/1"] == 2
    assert not any({"if-none-match", "if-modified-since"} & request.headers.keys() for request in server.requests)


def test_a_reason_that_quotes_a_servers_bytes_can_be_kept() -> None:
    error = PictureError(ImageStatus.REDIRECT_ERROR, "a redirect to \udce9x scheme")
    assert error.reason == "a redirect to ?x scheme"


def test_a_picture_is_kept_when_revalidating_it_fails_for_a_passing_reason(store: Store) -> None:
    with ChaosServer() as server:
        items = publish_items(store, [server.url("/good/1")])
        first = images.run(store=store, items=items, config=config())
    again = images.run(store=store, items=items, config=config(revalidate=True))
    assert (again.version, again.reused) == (first.version, True)


@pytest.mark.parametrize("instead", [b"<!DOCTYPE html><title>Back soon</title>", b"", jpeg(1, (400, 400))[:-700]])
def test_a_picture_is_kept_when_another_thing_is_served_in_its_place(
    store: Store, server: ChaosServer, instead: bytes
) -> None:
    items = publish_items(store, [server.url("/good/1")])
    first = images.run(store=store, items=items, config=config())
    server.pictures = {"/good/1": instead}
    assert images.run(store=store, items=items, config=config(revalidate=True)).version == first.version
    assert images.run(store=store, items=items, config=config()).reused
    server.pictures = {"/good/1": jpeg(2)}
    changed = images.run(store=store, items=items, config=config(revalidate=True))
    assert store.read(changed)["sha256"] != store.read(first)["sha256"]
    assert server.counts["/good/1"] == 3


def test_a_picture_that_is_gone_when_it_is_revalidated_is_given_up(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = publish_items(store, [server.url("/good/1")])
    images.run(store=store, items=items, config=config())
    monkeypatch.setitem(BEHAVIOURS, "/good", status("410 Gone"))
    gone = images.run(store=store, items=items, config=config(revalidate=True))
    assert store.read(gone)["status"].to_pylist() == ["not_found"]


def test_files_are_read_only_under_the_folder_the_run_names(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "a b.jpg").write_bytes(jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(jpeg(2))
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    urls: list[str | None] = [
        (root / "a b.jpg").as_uri(),
        (root / "none.jpg").as_uri(),
        (root / "link.jpg").as_uri(),
        f"file://{root}/../secret.jpg",
    ]
    inside = fetch(store, urls, file_root=str(root))
    assert [row["status"] for row in inside] == ["ok", "not_found", "blocked_address", "blocked_address"]
    assert {row["status"] for row in fetch(store, urls[:1] + urls[2:], file_root=str(root / "elsewhere"))} == {
        "blocked_address"
    }


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
    rows = fetch(store, [path.as_uri() for path in paths], file_root=str(tmp_path))
    assert [row["status"] for row in rows] == ["forbidden"] * 30 + ["ok"] * 10
    assert rows[0]["error"] == "the file may not be read"


def test_a_changed_or_mended_file_is_read_again_without_being_told(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"broken")
    items = publish_items(store, [path.as_uri()])
    here = config(file_root=str(tmp_path))
    versions = [images.run(store=store, items=items, config=here) for _ in range(2)]
    path.write_bytes(jpeg(1))
    versions += [images.run(store=store, items=items, config=here) for _ in range(2)]
    assert [version.reused for version in versions] == [False, True, False, True]
    assert store.read(versions[-1])["status"].to_pylist() == ["ok"]


def test_a_file_of_the_same_size_and_date_is_not_read_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1))
    items, here = publish_items(store, [path.as_uri()]), config(file_root=str(tmp_path))
    images.run(store=store, items=items, config=here)
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images.run(store=store, items=items, config=here).reused


def test_a_host_that_never_answers_is_given_up_and_others_go_on(store: Store, server: ChaosServer) -> None:
    urls: list[str | None] = [f"http://127.0.0.1:1/{n}" for n in range(50)] + [server.url("/good/1")]
    rows = fetch(store, urls, give_up_host_after=3, per_host=1, attempts=1)
    assert {row["status"] for row in rows[:50]} == {"connect_error"}
    assert sum("given up" in row["error"] for row in rows[:50]) == 47
    assert rows[50]["status"] == "ok"


def test_what_a_host_given_up_left_unasked_comes_first_in_a_later_run(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def six_broken(server: ChaosServer, request: Request) -> None:
        await (reset if int(request.path.rsplit("/", 1)[1]) < 6 else good)(server, request)

    monkeypatch.setitem(BEHAVIOURS, "/six-broken", six_broken)
    urls: list[str | None] = [server.url(f"/six-broken/{n}") for n in range(10)]
    arrived: list[int] = []
    for _ in range(3):
        rows = fetch(store, urls, give_up_host_after=3, per_host=1, attempts=1)
        arrived.append([row["status"] for row in rows].count("ok"))
    assert arrived == [0, 0, 4]
    asked = [int(request.path.rsplit("/", 1)[1]) for request in server.requests]
    assert list(dict.fromkeys(asked)) == list(range(10))


def test_a_host_that_asks_for_a_longer_rest_than_the_run_waits_is_left_for_a_later_run(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls: list[str | None] = [server.url(f"/429-for-long/{n}") for n in range(30)]
    rows = fetch(store, urls, per_host=1, give_up_host_after=3)
    assert {row["status"] for row in rows} == {"rate_limited"}
    assert server.counts.total() == 3
    monkeypatch.setitem(BEHAVIOURS, "/429-for-long", good)
    assert {row["status"] for row in fetch(store, urls)} == {"ok"}


def test_a_host_rests_also_when_the_picture_it_refused_is_not_asked_for_again(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def busy_at_first(server: ChaosServer, request: Request) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            await answer(request, "429 Too Many Requests", Retry_After="1")
        else:
            await good(server, request)

    monkeypatch.setitem(BEHAVIOURS, "/busy-at-first", busy_at_first)
    rows = fetch(store, [server.url(f"/busy-at-first/{n}") for n in range(2)], per_host=1, attempts=1)
    assert [row["status"] for row in rows] == ["rate_limited", "ok"]
    assert asked[1] - asked[0] >= 0.9


def test_as_many_requests_are_in_flight_as_allowed_and_no_more(store: Store, server: ChaosServer) -> None:
    rows = fetch(store, [server.url(f"/rendezvous/{n}") for n in range(12)], per_host=3)
    assert {row["status"] for row in rows} == {"ok"}
    assert server.most_at_once == 3


def test_limits_of_a_host_hold_for_what_others_redirect_to_it(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/elsewhere", redirect(server.url("/rendezvous/1")))
    with ChaosServer() as first, ChaosServer() as second, ChaosServer() as third, ChaosServer() as fourth:
        urls = [each.url(f"/elsewhere/{n}") for each in (first, second, third, fourth) for n in range(3)]
        rows = fetch(store, list(urls), per_host=3)
    assert {row["status"] for row in rows} == {"ok"}
    assert server.most_at_once == 3


def test_a_dead_host_that_another_redirects_to_is_given_up_in_its_place(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/dead", redirect("http://127.0.0.1:1/x.jpg"))
    urls = [*(server.url(f"/dead/{n}") for n in range(5)), *(server.url(f"/good/{n}") for n in range(4))]
    rows = fetch(store, list(urls), give_up_host_after=2, per_host=1, attempts=1)
    assert [row["status"] for row in rows] == ["connect_error"] * 5 + ["ok"] * 4
    assert ["127.0.0.1:1 given up" in row["error"] for row in rows[:5]] == [False] * 2 + [True] * 3


def test_runs_from_inside_an_event_loop(store: Store, server: ChaosServer) -> None:
    async def flow() -> list[dict[str, Any]]:
        return fetch(store, [server.url("/good/1")])

    assert asyncio.run(flow())[0]["status"] == "ok"


def test_an_empty_catalogue_gives_an_empty_table(store: Store) -> None:
    version = images.run(store=store, items=publish_items(store, []), config=config())
    assert (version.rows, store.read(version).schema.names) == (0, IMAGES.names)


RUNNER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, however the tests were started
from pipeline.images import stage as images
from pipeline.store import Store
from schemas.images import ImagesConfig
store = Store(sys.argv[1])
print(images.run(store=store, items=store.latest("d", "items"), config=ImagesConfig(**json.loads(sys.argv[2]))).rows)
"""


def start(store: Store, **changes: Any) -> "subprocess.Popen[str]":
    settings = json.dumps(FAST | {"read_timeout": 600, "total_timeout": 600} | changes)
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(store), settings],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(store: Store, process: "subprocess.Popen[str]", shards: int) -> None:
    """Until the run has kept so many shards; it cannot end by itself, one picture is held back."""
    folder = Path(store.root) / "_cache" / "images"
    while len(list(folder.glob("*/outcomes/*.parquet"))) < shards:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            raise AssertionError("the run ended although a picture is held back")


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_after_kill_9_only_the_unfinished_shard_is_asked_for_again(store: Store, server: ChaosServer) -> None:
    urls: list[str | None] = [server.url("/held"), *(server.url(f"/good/{n}") for n in range(200))]
    items = publish_items(store, urls)
    process = start(store, shard_rows=16)
    wait_for_shards(store, process, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.hold.set()
    kept = len(KeptImages(store, config()).outcomes)
    assert kept >= 5 * 16
    before = server.counts.copy()
    version = images.run(store=store, items=items, config=config())
    asked_again = server.counts - before
    assert asked_again.total() == 201 - kept
    assert set(asked_again.values()) == {1}
    assert set(store.read(version)["status"].to_pylist()) == {"ok"}


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_ctrl_c_ends_the_run_though_servers_hang_and_keeps_what_is_finished(store: Store, server: ChaosServer) -> None:
    urls: list[str | None] = [server.url("/silent"), *(server.url(f"/good/{n}") for n in range(40))]
    publish_items(store, urls)
    process = start(store, shard_rows=16)
    wait_for_shards(store, process, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert len(KeptImages(store, config()).outcomes) >= 16
