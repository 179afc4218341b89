"""What a later run asks for again, and what it keeps."""

import os
from pathlib import Path

import pytest

from pipeline.store import Store
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, Request, good, jpeg, reset, status
from tests.support.images_stage import image_rows, publish_urls, run_images


def test_a_later_run_asks_only_for_what_failed_for_a_passing_reason(store: Store, server: ChaosServer) -> None:
    items = publish_urls(store, [server.url("/500-thrice-then-fine"), server.url("/404"), server.url("/good/1")])
    versions = [run_images(store, items, attempts=1) for _ in range(5)]
    assert [version.reused for version in versions] == [False, True, True, False, True]
    assert versions[0].version == versions[1].version == versions[2].version != versions[3].version
    assert server.counts == {"/500-thrice-then-fine": 4, "/404": 1, "/good/1": 1}
    assert store.latest("shop", "images").version == versions[4].version
    assert [row["status"] for row in store.read(versions[4]).to_pylist()] == ["ok", "not_found", "ok"]


def test_lifting_a_limit_asks_again_for_what_it_refused(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/1"] = jpeg(1, (300, 300))
    urls = [server.url("/good/1"), server.url("/good/2")]
    assert [row["status"] for row in image_rows(store, urls, max_pixels=10_000)] == ["too_many_pixels", "ok"]
    assert [row["status"] for row in image_rows(store, urls)] == ["ok", "ok"]
    assert server.counts["/good/2"] == 1


@pytest.mark.parametrize("header", [{"ETag": '"v1"'}, {"Last-Modified": "Tue, 01 Sep 2026 10:00:00 GMT"}])
def test_revalidation_asks_conditionally_and_changes_only_what_changed(
    store: Store, server: ChaosServer, header: dict[str, str]
) -> None:
    server.validators = {name.replace("-", "_"): value for name, value in header.items()}
    items = publish_urls(store, [server.url("/good/1")])
    first = run_images(store, items)
    assert run_images(store, items, revalidate=True).version == first.version
    assert run_images(store, items, revalidate=True, max_age=3600.0).reused
    assert server.counts["/good/1"] == 2
    server.validators, server.pictures = {}, {"/good/1": jpeg(9)}
    changed = run_images(store, items, revalidate=True)
    assert changed.version != first.version
    assert store.read(changed)["sha256"] != store.read(first)["sha256"]


def test_a_picture_is_kept_when_revalidating_it_fails_for_a_passing_reason(store: Store) -> None:
    with ChaosServer() as server:
        items = publish_urls(store, [server.url("/good/1")])
        first = run_images(store, items)
    again = run_images(store, items, revalidate=True)
    assert (again.version, again.reused) == (first.version, True)


@pytest.mark.parametrize("instead", [b"<!DOCTYPE html><title>Back soon</title>", b"", jpeg(1, (400, 400))[:-700]])
def test_a_picture_is_kept_when_another_thing_is_served_in_its_place(
    store: Store, server: ChaosServer, instead: bytes
) -> None:
    items = publish_urls(store, [server.url("/good/1")])
    first = run_images(store, items)
    server.pictures = {"/good/1": instead}
    assert run_images(store, items, revalidate=True).version == first.version
    assert run_images(store, items).reused
    server.pictures = {"/good/1": jpeg(2)}
    changed = run_images(store, items, revalidate=True)
    assert store.read(changed)["sha256"] != store.read(first)["sha256"]
    assert server.counts["/good/1"] == 3


def test_a_picture_that_is_gone_when_it_is_revalidated_is_given_up(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = publish_urls(store, [server.url("/good/1")])
    run_images(store, items)
    monkeypatch.setitem(BEHAVIOURS, "/good", status("410 Gone"))
    gone = run_images(store, items, revalidate=True)
    assert store.read(gone)["status"].to_pylist() == ["not_found"]


def test_a_changed_or_mended_file_is_read_again_without_being_told(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"broken")
    items = publish_urls(store, [path.as_uri()])
    versions = [run_images(store, items, file_root=str(tmp_path)) for _ in range(2)]
    path.write_bytes(jpeg(1))
    versions += [run_images(store, items, file_root=str(tmp_path)) for _ in range(2)]
    assert [version.reused for version in versions] == [False, True, False, True]
    assert store.read(versions[-1])["status"].to_pylist() == ["ok"]


def test_a_file_of_the_same_size_and_date_is_not_read_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1))
    items = publish_urls(store, [path.as_uri()])
    run_images(store, items, file_root=str(tmp_path))
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run_images(store, items, file_root=str(tmp_path)).reused


def test_what_a_host_given_up_left_unasked_comes_first_in_a_later_run(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def six_broken(server: ChaosServer, request: Request) -> None:
        await (reset if int(request.path.rsplit("/", 1)[1]) < 6 else good)(server, request)

    monkeypatch.setitem(BEHAVIOURS, "/six-broken", six_broken)
    urls = [server.url(f"/six-broken/{n}") for n in range(10)]
    arrived: list[int] = []
    for _ in range(3):
        rows = image_rows(store, urls, give_up_host_after=3, per_host=1, attempts=1)
        arrived.append([row["status"] for row in rows].count("ok"))
    assert arrived == [0, 0, 4]
    asked = [int(request.path.rsplit("/", 1)[1]) for request in server.requests]
    assert list(dict.fromkeys(asked)) == list(range(10))
