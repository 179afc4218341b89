"""The images stage against a server that misbehaves: every picture is a row, and nothing is asked for twice."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import images
from pipeline.images.kept import KeptImages
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.tables import GALLERY, IMAGES
from tests.conftest import ROOT
from tests.support.chaos_server import ChaosServer, jpeg
from tests.support.images_stage import QUICK, image_rows, publish_urls, quick_config, run_images

EXPECTED = {
    "/404": "not_found",
    "/410": "not_found",
    "/403": "forbidden",
    "/400": "http_error",
    "/429-for-long": "rate_limited",
    "/429-then-fine": "ok",
    "/500": "http_error",
    "/500-then-fine": "ok",
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
def test_every_misbehaviour_is_the_right_row_and_all_good_pictures_beside_it_arrive(
    store: Store, server: ChaosServer
) -> None:
    urls: list[str] = []
    for number, path in enumerate(EXPECTED):
        urls += [server.url(path), server.url(f"/good/{number}")]
    rows = image_rows(store, urls)
    assert [row["item_id"] for row in rows] == [f"item {n}" for n in range(len(urls))]
    assert {path: row["status"] for path, row in zip(EXPECTED, rows[::2], strict=True)} == EXPECTED
    assert [row["status"] for row in rows[1::2]] == ["ok"] * len(EXPECTED)
    for row in rows:
        assert (row["image"] is None) == (row["status"] != "ok") == (row["width"] is None) == (row["error"] is not None)


def test_a_server_that_says_nothing_is_a_row_and_the_picture_beside_it_arrives(
    store: Store, server: ChaosServer
) -> None:
    rows = image_rows(store, [server.url("/silent"), server.url("/good/1")], read_timeout=1.0)
    assert [row["status"] for row in rows] == ["timeout", "ok"]
    assert (rows[0]["image"], rows[0]["width"]) == (None, None)
    assert rows[0]["error"]


def test_missing_and_malformed_urls_are_rows(store: Store) -> None:
    rows = image_rows(store, [None, "  ", "not a url", "ftp://127.0.0.1/x", "data:image/png", "http://", "http://[::1"])
    assert [row["status"] for row in rows] == ["no_url"] * 2 + ["invalid_url"] * 5
    assert [row["url"] for row in rows[:2]] == [None, None]


def test_an_address_that_is_refused_is_a_row_with_it_and_the_reason(store: Store, tmp_path: Path) -> None:
    refused = {
        "s3://bucket/a.jpg": ("invalid_url", "scheme 's3' is not http or https"),
        "images/a.jpg": ("invalid_url", "no scheme such as https://, and no place that it is relative to"),
        "javascript:alert(1)": ("invalid_url", "scheme 'javascript' is not http or https"),
        (tmp_path / ("x" * 300)).as_uri(): ("invalid_url", "no file can have so long a name"),
        (tmp_path.parent / "secret.jpg").as_uri(): ("blocked_address", "the file is outside images.file_root"),
        (tmp_path / "a%00b.jpg").as_uri(): ("not_found", "no such file"),
    }
    rows = image_rows(store, list(refused), file_root=str(tmp_path), give_up_host_after=1)
    assert [row["url"] for row in rows] == list(refused)
    for row, (status, reason) in zip(rows, refused.values(), strict=True):
        assert (row["status"], row["error"][: len(reason)]) == (status, reason)


def test_a_picture_is_stored_small_with_the_digest_of_the_original(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/1"] = original = jpeg(1, (600, 300))
    (row,) = image_rows(store, [server.url("/good/1")], max_side=100)
    assert (row["width"], row["height"]) == (100, 50)
    stored = Image.open(io.BytesIO(row["image"]))
    assert (stored.format, stored.size) == ("JPEG", (100, 50))
    assert row["sha256"] == hashlib.sha256(original).hexdigest()


def test_a_second_run_asks_nothing_and_returns_the_version_there_is(store: Store, server: ChaosServer) -> None:
    items = publish_urls(store, [server.url("/good/1"), server.url("/404"), server.url("/html"), None])
    first = run_images(store, items)
    asked = server.counts.total()
    again = run_images(store, items, concurrency=3, backoff=9.0)
    assert (again.version, again.reused, first.reused) == (first.version, True, False)
    assert server.counts.total() == asked


def test_equal_urls_are_fetched_once_and_equal_bytes_stored_once(store: Store, server: ChaosServer) -> None:
    server.pictures = {"/good/1": jpeg(1), "/good/2": jpeg(1), "/good/3": jpeg(1)}
    urls = [server.url(f"/good/{n}") for n in (1, 2, 1, 1, 3)]
    rows = image_rows(store, urls)
    assert server.counts == {"/good/1": 1, "/good/2": 1, "/good/3": 1}
    assert len({row["image"] for row in rows}) == 1
    assert len(KeptImages(store, quick_config()).pictures) == 1


def test_counts_are_the_urls_requested_and_the_rows_by_status(store: Store, server: ChaosServer) -> None:
    items = publish_urls(store, [server.url("/good/1"), server.url("/good/2"), server.url("/404"), None])
    first = images.run(store=store, items=items, config=quick_config())
    assert first.counts == {"downloaded": 3, "ok": 2, "no_url": 1, "not_found": 1}
    again = images.run(store=store, items=items, config=quick_config())
    assert again.counts == first.counts | {"downloaded": 0}


def test_an_empty_catalogue_gives_an_empty_table(store: Store) -> None:
    version = run_images(store, publish_urls(store, []))
    assert (version.rows, store.read(version).schema.names) == (0, IMAGES.names)


def publish_shop(store: Store, server: ChaosServer) -> TableVersion:
    """Five items: two further pictures, one of them another item's main; two broken ones; none; one; no picture."""
    pictures = [[1, 2, 3], [4, "/404", "/html"], [3], [5, 6], [None]]
    urls = [[server.url(p if isinstance(p, str) else f"/good/{p}") if p else None for p in each] for each in pictures]
    return publish_urls(store, [each[0] for each in urls], [each[1:] for each in urls])  # type: ignore[misc]


def test_by_default_a_gallery_is_not_asked_for(store: Store, server: ChaosServer) -> None:
    tables = images.run(store=store, items=publish_shop(store, server), config=quick_config()).tables
    assert list(tables) == ["images"]
    assert server.counts == {"/good/1": 1, "/good/4": 1, "/good/3": 1, "/good/5": 1}


def test_every_further_picture_is_a_row_in_the_items_order_and_none_is_asked_for_twice(
    store: Store, server: ChaosServer
) -> None:
    items = publish_shop(store, server)
    before = run_images(store, items)
    tables = images.run(store=store, items=items, config=quick_config(pictures="mean")).tables
    assert (tables["images"].version, tables["images"].reused) == (before.version, True)
    rows = store.read(tables["gallery"]).to_pylist()
    assert [(row["item_id"], row["position"], row["status"]) for row in rows] == [
        ("item 0", 1, "ok"),
        ("item 0", 2, "ok"),
        ("item 1", 1, "not_found"),
        ("item 1", 2, "not_an_image"),
        ("item 3", 1, "ok"),
    ]
    assert store.read(tables["gallery"]).schema.names == GALLERY.names
    (third,) = (row for row in store.read(before).to_pylist() if row["item_id"] == "item 2")
    assert rows[1]["image"] == third["image"]
    assert {path for path, asked in server.counts.items() if asked > 1} == set()
    again = images.run(store=store, items=items, config=quick_config(pictures="mean")).tables
    assert again["gallery"].reused
    assert server.counts.total() == 8


@pytest.mark.parametrize(("policy", "asked", "rows"), [("max-2", 7, 3), ("max-3", 8, 5), ("max-12", 8, 5)])
def test_no_more_pictures_of_an_item_are_asked_for_than_the_policy_says(
    store: Store, server: ChaosServer, policy: str, asked: int, rows: int
) -> None:
    tables = images.run(store=store, items=publish_shop(store, server), config=quick_config(pictures=policy)).tables
    assert (server.counts.total(), tables["gallery"].rows) == (asked, rows)


RUNNER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, however the tests were started
from pipeline import images
from pipeline.store import Store
from schemas.images import ImagesConfig
store = Store(sys.argv[1])
images.run(store=store, items=store.latest("shop", "items"), config=ImagesConfig(**json.loads(sys.argv[2])))
"""


def start(store: Store, **changes: Any) -> "subprocess.Popen[str]":
    settings = json.dumps(QUICK | {"read_timeout": 600, "total_timeout": 600} | changes)
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(store), settings],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(store: Store, process: "subprocess.Popen[str]", shards: int) -> None:
    """Wait until the run has kept this many shards. It cannot end by itself, because one picture is held back."""
    folder = Path(store.root) / "_cache" / "images"
    while len(list(folder.glob("*/outcomes/*.parquet"))) < shards:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            raise AssertionError("the run ended although a picture is held back")


@pytest.mark.slow
def test_after_kill_9_only_the_unfinished_shard_is_asked_for_again(store: Store, server: ChaosServer) -> None:
    urls = [server.url("/held"), *(server.url(f"/good/{n}") for n in range(200))]
    items = publish_urls(store, urls)
    process = start(store, shard_rows=16)
    wait_for_shards(store, process, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.hold.set()
    kept = len(KeptImages(store, quick_config()).outcomes)
    assert kept >= 5 * 16
    before = server.counts.copy()
    version = run_images(store, items)
    asked_again = server.counts - before
    assert asked_again.total() == 201 - kept
    assert set(asked_again.values()) == {1}
    assert set(store.read(version)["status"].to_pylist()) == {"ok"}


@pytest.mark.slow
def test_ctrl_c_ends_the_run_though_servers_hang_and_keeps_what_is_finished(store: Store, server: ChaosServer) -> None:
    urls = [server.url("/silent"), *(server.url(f"/good/{n}") for n in range(40))]
    publish_urls(store, urls)
    process = start(store, shard_rows=16)
    wait_for_shards(store, process, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert len(KeptImages(store, quick_config()).outcomes) >= 16
