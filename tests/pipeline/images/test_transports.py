"""HTTP/2, if the run asks for it: the same rules as over HTTP/1.1."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import pytest
import trustme

from pipeline.images.outcome import PictureError
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, body, jpeg
from tests.support.http2_server import Http2Server
from tests.support.images_stage import fetch_files, quick_config
from tests.support.tls import server_context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def config(authority: trustme.CA, tmp_path: Path) -> ImagesConfig:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return quick_config(http2=True, ca_file=str(tmp_path / "ca.pem"), max_bytes=1 << 20)


def status(config: ImagesConfig, url: str) -> ImageStatus:
    with pytest.raises(PictureError) as caught:
        fetch_files(config, url)
    return caught.value.status


def test_many_pictures_share_one_connection_and_arrive_whole(authority: trustme.CA, config: ImagesConfig) -> None:
    picture = os.urandom(300_000)  # several times HTTP/2's first flow-control window
    with Http2Server(server_context(authority), picture) as server:
        urls = [f"https://127.0.0.1:{server.port}/{number}?size=big%2F" for number in range(20)]
        pictures = fetch_files(config, *urls)
        assert {hashlib.sha256(one.body or b"").digest() for one in pictures} == {hashlib.sha256(picture).digest()}
        assert pictures[0].validators.etag == '"h2"'
        assert sorted(server.paths) == sorted(f"/{number}?size=big%2F" for number in range(20))
        assert server.connections == 1


def test_a_host_without_http2_is_asked_in_http1(authority: trustme.CA, config: ImagesConfig) -> None:
    with ChaosServer(tls=server_context(authority)) as server:
        assert [file.body for file in fetch_files(config, server.url("/good/1"), server.url("/good/2"))] == [
            jpeg(1),
            jpeg(2),
        ]


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
            assert fetch_files(config, server.url("/packed"))[0].body == jpeg(1)


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
