"""HTTP/2, where the run asks for it: the same rules over another transport."""

import asyncio
import gzip
import hashlib
import os
import ssl
import zlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from pipeline.images.client import Client
from pipeline.images.outcome import Fetched, Moved, PictureError
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, body, jpeg
from tests.support.http2_server import Http2Server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def config(authority: trustme.CA, tmp_path: Path) -> ImagesConfig:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return ImagesConfig(
        http2=True,
        allowed_hosts=("127.0.0.1",),
        ca_file=str(tmp_path / "ca.pem"),
        connect_timeout=5.0,
        read_timeout=1.0,
        total_timeout=10.0,
        max_bytes=1 << 20,
    )


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def follow(client: Client, url: str) -> Fetched:
    async with AsyncExitStack() as needed:
        found = await client.fetch(url, None, needed)
        while isinstance(found, Moved):
            found = await client.fetch(url, None, needed, found)
        return found


def fetch(config: ImagesConfig, *urls: str) -> list[Any]:
    async def run() -> list[Any]:
        async with Client(config) as client:
            first = await follow(client, urls[0])  # alone, so that the connection stands before the rest
            return [first, *await asyncio.gather(*(follow(client, url) for url in urls[1:]))]

    return asyncio.run(run())


def status(config: ImagesConfig, url: str) -> ImageStatus:
    with pytest.raises(PictureError) as caught:
        fetch(config, url)
    return caught.value.status


def test_many_pictures_share_one_connection_and_arrive_whole(authority: trustme.CA, config: ImagesConfig) -> None:
    picture = os.urandom(300_000)  # several times HTTP/2's first flow-control window
    with Http2Server(server_context(authority), picture) as server:
        urls = [f"https://127.0.0.1:{server.port}/{number}?size=big%2F" for number in range(20)]
        found: list[Fetched] = fetch(config, *urls)
        assert {hashlib.sha256(one.body or b"").digest() for one in found} == {hashlib.sha256(picture).digest()}
        assert found[0].validators.etag == '"h2"'
        assert sorted(server.paths) == sorted(f"/{number}?size=big%2F" for number in range(20))
        assert server.connections == 1


def test_a_host_without_http2_is_asked_in_http1(authority: trustme.CA, config: ImagesConfig) -> None:
    with ChaosServer(tls=server_context(authority)) as server:
        assert fetch(config, server.url("/good/1"), server.url("/good/2"))[1].body.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/404", ImageStatus.NOT_FOUND),
        ("/silent", ImageStatus.TIMEOUT),
        ("/reset", ImageStatus.CONNECT_ERROR),
        ("/wrong-length", ImageStatus.CONNECT_ERROR),
        ("/endless", ImageStatus.TOO_LARGE),
        ("/gzip-bomb", ImageStatus.TOO_LARGE),
        ("/redirect-to-metadata", ImageStatus.BLOCKED_ADDRESS),
        ("/redirect-to-loopback-name", ImageStatus.BLOCKED_ADDRESS),
        ("/redirect-loop", ImageStatus.REDIRECT_ERROR),
    ],
)
def test_misbehaviour_has_the_same_names_as_over_http1(path: str, expected: ImageStatus, config: ImagesConfig) -> None:
    with ChaosServer() as server:
        assert status(config, server.url(path)) is expected


def test_a_body_compressed_unasked_is_unpacked(config: ImagesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, packed in enumerate((gzip.compress(jpeg(1)), zlib.compress(jpeg(1)))):
        behaviour = body(packed, Content_Encoding=("gzip", "deflate")[number])
        monkeypatch.setitem(BEHAVIOURS, "/packed", behaviour)
        with ChaosServer() as server:
            assert fetch(config, server.url("/packed"))[0].body == jpeg(1)


@pytest.mark.parametrize("packed", [jpeg(1), gzip.compress(jpeg(1))[:-20]])
def test_a_compressed_body_that_is_damaged_is_a_broken_answer(
    config: ImagesConfig, monkeypatch: pytest.MonkeyPatch, packed: bytes
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/packed", body(packed, Content_Encoding="gzip"))
    with ChaosServer() as server:
        assert status(config, server.url("/packed")) is ImageStatus.CONNECT_ERROR


def test_certificates_names_and_addresses_are_checked(authority: trustme.CA, config: ImagesConfig) -> None:
    with Http2Server(server_context(trustme.CA()), b"") as stranger, Http2Server(server_context(authority), b"") as own:
        assert status(config, f"https://127.0.0.1:{stranger.port}/") is ImageStatus.TLS_ERROR
        assert status(config, f"https://localhost:{own.port}/") is ImageStatus.BLOCKED_ADDRESS
        assert own.paths == stranger.paths == []
    assert status(config, "https://no-such-host.invalid/") is ImageStatus.DNS_ERROR
    assert status(config, "https://127.0.0.1:1/") is ImageStatus.CONNECT_ERROR
