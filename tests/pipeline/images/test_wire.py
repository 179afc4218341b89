"""What goes onto the wire, over either transport: the path and query of the catalogue or a redirect, byte for byte."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pipeline.images.client import Client
from pipeline.images.outcome import Fetched, Moved
from schemas.errors import UserError
from schemas.images import ImagesConfig
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, body, jpeg, redirect

SIGNED = "/picture/a%2Fb%2fc.jpg?X-Sig=ab%2Fcd%3D%3D&x=1%2B2&y=a/b:c@d+e~*'(!$,;)[0]&z=%C3%A9&=&"

pytestmark = pytest.mark.parametrize("http2", [False, True])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosServer]:
    monkeypatch.setitem(BEHAVIOURS, "/picture", body(jpeg(1)))
    with ChaosServer() as server:
        yield server


def fetch(url: str, http2: bool) -> None:
    async def run() -> None:
        config = ImagesConfig(allowed_hosts=("127.0.0.1", "localhost"), http2=http2)
        async with Client(config) as client, AsyncExitStack() as needed:
            found = await client.fetch(url, None, needed)
            while isinstance(found, Moved):
                found = await client.fetch(url, None, needed, found)
            assert isinstance(found, Fetched)
            assert found.body == jpeg(1)

    asyncio.run(run())


@pytest.mark.parametrize("path", [SIGNED, "/picture/.././a//b.jpg", "/picture?", "/picture/x?a?b"])
def test_what_is_legal_is_sent_as_it_is(server: ChaosServer, path: str, http2: bool) -> None:
    fetch(server.url(path) + "#fragment", http2)
    assert [request.path for request in server.requests] == [path.removesuffix("?")]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ('/picture/a b "1".jpg?q={<é>}', "/picture/a%20b%20%221%22.jpg?q=%7B%3C%C3%A9%3E%7D"),
        ("/picture/100%.jpg?p=5%&q=%2F%zz", "/picture/100%25.jpg?p=5%25&q=%2F%25zz"),
        ("/picture/a\n b\\c|^`.jpg", "/picture/a%20b%5Cc%7C%5E%60.jpg"),
    ],
)
def test_only_what_is_not_legal_is_escaped(server: ChaosServer, path: str, sent: str, http2: bool) -> None:
    fetch(server.url(path), http2)
    assert [request.path for request in server.requests] == [sent]


@pytest.mark.parametrize("prefix", ["", "http://127.0.0.1:{port}", "//127.0.0.1:{port}"])
def test_a_redirect_is_followed_as_it_is_written(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, prefix: str, http2: bool
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(prefix + SIGNED))
    fetch(server.url("/redirect"), http2)
    assert [request.path for request in server.requests] == ["/redirect", SIGNED]


@pytest.mark.parametrize(
    ("location", "sent"), [("/picture/é ü.jpg".encode(), "%C3%A9%20%C3%BC.jpg"), (b"/picture/\xe9.jpg", "%E9.jpg")]
)
def test_the_bytes_of_a_redirect_are_escaped_one_by_one(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, location: bytes, sent: str, http2: bool
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(location.decode("latin-1")))  # and so encoded again
    fetch(server.url("/redirect"), http2)
    assert [request.path for request in server.requests] == ["/redirect", f"/picture/{sent}"]


def test_a_user_named_in_a_url_is_authorized_at_its_own_host_only(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, http2: bool
) -> None:
    with ChaosServer() as other:
        monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect("/away"))
        monkeypatch.setitem(BEHAVIOURS, "/away", redirect(other.url("/picture/1")))
        fetch(server.url("/redirect", host="us%C3%A9r:p%40:w@127.0.0.1"), http2)
    sent = "Basic " + b64encode("usér:p@:w".encode()).decode()
    assert [request.headers.get("authorization") for request in server.requests] == [sent, sent]
    assert [request.headers.get("authorization") for request in other.requests] == [None]
    assert [request.headers["host"] for request in server.requests] == [f"127.0.0.1:{server.port}"] * 2


def test_a_login_of_the_machine_goes_to_its_host_alone(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, http2: bool
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login usér password p@:w\ndefault login x password y\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(server.url("/picture/2", host="localhost")))
    fetch(server.url("/picture/1"), http2)
    fetch(server.url("/picture/1", host="other:@127.0.0.1"), http2)
    fetch(server.url("/redirect"), http2)
    machine, other = (f"Basic {b64encode(login.encode()).decode()}" for login in ("usér:p@:w", "other:"))
    assert [request.headers.get("authorization") for request in server.requests] == [machine, other, machine, None]


def test_a_broken_file_of_logins_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, http2: bool) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but it cannot be read"):
        Client(ImagesConfig(http2=http2))
    (tmp_path / "netrc").write_text("machine a login b password c\nsecret")
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but line 2 is not\. ") as refused:
        Client(ImagesConfig(http2=http2))
    assert "secret" not in str(refused.value)
