"""serve and never-show, as commands."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import stamina

from pipeline.registry import versions
from pipeline.store import Store
from tests.support.command_line import cm3
from tests.support.installation import installed
from tests.support.registered import register
from tests.support.shop import draw, published

KEY = "a-key-of-this-test-0123456789"
DEADLINE = 120.0
INSTALLED = Path(sys.executable).parent / "cm3"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions, the first of them champion."""
    store = Store(tmp_path_factory.mktemp("shops") / "store")
    for seed in (1, 2):
        register(store, published(store, draw(seed=seed)))
    versions.promote(store, "shop", "1")
    return Path(store.root)


@contextmanager
def started(
    store: Path, *arguments: str, cache: Path, cm3: Path = INSTALLED, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`cm3 serve` as a process, and its address; killed at the end if it still runs."""
    command = [str(cm3), "serve", "--store", str(store), "--port", "0", *arguments]
    environment = os.environ | {"CM3_CACHE": str(cache)} | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[0]
        finally:
            process.kill()


@stamina.retry(on=(httpx.TransportError, AssertionError), timeout=DEADLINE, attempts=None, wait_max=0.5)
def answer(url: str, status: int = 200, **expected: str) -> httpx.Response:
    """Ask until the answer is this."""
    response = httpx.get(url, timeout=DEADLINE)
    assert response.status_code == status, response.text
    assert expected.items() <= (response.json().items() if expected else expected.items())
    return response


@pytest.mark.slow
def test_several_processes_follow_a_promotion_and_end_with_their_parent(shop: Path, tmp_path: Path) -> None:
    with started(shop, "--workers", "2", cache=tmp_path) as (process, url):
        answer(f"{url}/readyz")
        answer(f"{url}/v1/shop/recommend/u000", version="1")
        cm3("promote", "shop", "2", store=shop)
        answer(f"{url}/v1/shop/recommend/u000", version="2")
        cm3("rollback", "shop", store=shop)
        answer(f"{url}/v1/shop/recommend/u000", version="1")
        assert answer(f"{url}/").text.count('href="/shop"') == 1
        counts = answer(f"{url}/metrics").text
        counted = re.findall(r'^cm3_requests_total{.*recommend.*status="200"} (\d+)', counts, re.M)
        assert sum(map(int, counted)) >= 3, "of both processes"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not list((tmp_path / "serving").iterdir()), "nothing is left"


@pytest.mark.slow
def test_a_server_that_was_killed_leaves_no_process_and_the_next_one_takes_its_files_away(
    shop: Path, tmp_path: Path
) -> None:
    with started(shop, cache=tmp_path) as (process, url):
        answer(f"{url}/readyz")
        process.kill()
        process.wait(DEADLINE)
        refused(url)
    (left,) = [path for path in (tmp_path / "serving").iterdir() if path.is_dir()]
    with started(shop, cache=tmp_path) as (process, url):
        answer(f"{url}/readyz")
        assert not left.exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command where the extra `serve` alone is installed."""
    return installed(tmp_path_factory.mktemp("small"), "serve")


@pytest.mark.slow
def test_its_extra_is_enough_for_every_answer_and_page(shop: Path, small: Path, tmp_path: Path) -> None:
    with started(shop, cache=tmp_path, cm3=small) as (_, url):
        assert answer(f"{url}/readyz").json()["problems"] == {}
        assert answer(f"{url}/v1/shop/recommend/u000?k=40").json()["items"]
        assert answer(f"{url}/v1/shop/similar/i000").json()["items"]
        chosen = httpx.post(f"{url}/v1/shop/recommend", json={"items": ["i000"]}, timeout=DEADLINE)
        assert chosen.json()["items"]
        for page in ("/", "/shop", "/v1", "/metrics"):
            answer(f"{url}{page}")


@pytest.mark.slow
def test_a_command_that_needs_more_than_the_extra_serve_names_the_one_to_install(small: Path, tmp_path: Path) -> None:
    said = subprocess.run([small, "run", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
    assert said.returncode == 1
    assert said.stderr.startswith("error: cm3 run needs packages that are not installed")
    assert said.stderr.endswith("pip install 'cm3-features[run]'\n")


@pytest.mark.slow
def test_a_store_in_s3_names_the_extra_that_reads_it(small: Path) -> None:
    said = subprocess.run([small, "show", "--store", "s3://b/p"], capture_output=True, text=True, timeout=DEADLINE)
    assert said.returncode == 1
    assert "pip install 'cm3-features[s3]'" in " ".join(said.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("recommend", "shop", "u000"), ("show",), ("versions", "shop"), ("resolve", "shop/items")]
)
def test_the_extra_serve_is_enough_to_look_into_a_store(shop: Path, small: Path, words: tuple[str, ...]) -> None:
    said = subprocess.run([small, *words, "--store", shop], capture_output=True, text=True, timeout=DEADLINE)
    assert said.returncode == 0, said.stderr


@stamina.retry(on=(AssertionError, httpx.ReadError, httpx.RemoteProtocolError), timeout=DEADLINE, attempts=None)
def refused(url: str) -> None:
    """Wait until nobody listens."""
    try:
        httpx.get(url, timeout=DEADLINE)
    except httpx.ConnectError:
        return
    raise AssertionError(f"{url} is still answered")


def test_a_taken_port_is_said_without_a_number_of_the_system(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = cm3("serve", "--port", str(taken.getsockname()[1]), store=tmp_path)
    assert said.returncode == 1
    assert "cannot be used: Address already in use. Choose another one" in said.stderr


def test_it_refuses_to_listen_elsewhere_without_a_key_or_with_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CM3_API_KEY", raising=False)
    said = cm3("serve", "--host", "0.0.0.0", "--port", "0", store=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert "set CM3_API_KEY to a key" in said.stderr
    monkeypatch.setenv("CM3_API_KEY", "short")
    said = cm3("serve", "--host", "0.0.0.0", "--port", "0", store=tmp_path)
    assert "expected at least 16 characters; found 5" in said.stderr


@pytest.mark.slow
def test_the_list_of_what_is_never_shown_is_replaced_printed_and_obeyed(shop: Path, tmp_path: Path) -> None:
    first = json.loads(cm3("recommend", "shop", "u000", "--json", store=shop).stdout)["answers"][0]["items"]
    file = tmp_path / "sold_out.txt"
    file.write_text(f"\ufeff{first[0]['item_id']}\r\n\n  {first[2]['item_id']}  \nno-such-item\n")
    said = cm3("never-show", "shop", str(file), store=shop)
    assert said.stdout.startswith("3 items of shop are never shown. 1 of them are not in the catalogue: no-such-item")
    assert cm3("never-show", "shop", store=shop).stdout.split() == sorted(
        [first[0]["item_id"], first[2]["item_id"], "no-such-item"]
    )
    rows = json.loads(cm3("recommend", "shop", "u000", "--json", store=shop).stdout)["answers"][0]["items"]
    assert [row["item_id"] for row in rows] == [first[1]["item_id"], *(row["item_id"] for row in first[3:])]
    assert [row["rank"] for row in rows] == list(range(1, len(first) - 1))
    chosen = json.loads(cm3("recommend", "shop", "--items", "i000,i001", "--k", "40", "--json", store=shop).stdout)
    assert first[0]["item_id"] not in {row["item_id"] for row in chosen["answers"][0]["items"]}
    file.write_text("")
    cm3("never-show", "shop", str(file), store=shop)
    assert json.loads(cm3("never-show", "shop", "--json", store=shop).stdout)["never_shown"] == []


def test_a_list_that_cannot_be_read_or_is_for_no_data_set_changes_nothing(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    assert "expected UTF-8 text" in cm3("never-show", "shop", str(tmp_path / "picture.txt"), store=shop).stderr
    assert "No such file" in cm3("never-show", "shop", "nothing.txt", store=shop).stderr
    assert "No data set 'other'" in cm3("never-show", "other", "nothing.txt", store=shop).stderr
