"""What is sent over either transport: the path and query of the catalogue or a redirect, byte for byte."""

import pytest

from pipeline.store import Store
from schemas.images import ImagesConfig
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, jpeg, redirect
from tests.support.images_stage import fetch_files, image_rows

SIGNED = "/picture/a%2Fb%2fc.jpg?X-Sig=ab%2Fcd%3D%3D&x=1%2B2&y=a/b:c@d+e~*'(!$,;)[0]&z=%C3%A9&=&"


def fetch(url: str) -> None:
    (fetched,) = fetch_files(ImagesConfig(allowed_hosts=("127.0.0.1", "localhost")), url)
    assert fetched.body == jpeg(1)


@pytest.mark.parametrize("path", [SIGNED, "/picture/.././a//b.jpg", "/picture?", "/picture/x?a?b"])
def test_what_is_legal_is_sent_as_it_is(server: ChaosServer, path: str) -> None:
    fetch(server.url(path) + "#fragment")
    assert [request.path for request in server.requests] == [path.removesuffix("?")]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ('/picture/a b "1".jpg?q={<é>}', "/picture/a%20b%20%221%22.jpg?q=%7B%3C%C3%A9%3E%7D"),
        ("/picture/100%.jpg?p=5%&q=%2F%zz", "/picture/100%25.jpg?p=5%25&q=%2F%25zz"),
        ("/picture/a\n b\\c|^`.jpg", "/picture/a%20b%5Cc%7C%5E%60.jpg"),
    ],
)
def test_only_what_is_not_legal_is_escaped(server: ChaosServer, path: str, sent: str) -> None:
    fetch(server.url(path))
    assert [request.path for request in server.requests] == [sent]


@pytest.mark.parametrize("prefix", ["", "http://127.0.0.1:{port}", "//127.0.0.1:{port}"])
def test_a_redirect_is_followed_as_it_is_written(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(prefix + SIGNED))
    fetch(server.url("/redirect"))
    assert [request.path for request in server.requests] == ["/redirect", SIGNED]


@pytest.mark.parametrize(
    ("location", "sent"), [("/picture/é ü.jpg".encode(), "%C3%A9%20%C3%BC.jpg"), (b"/picture/\xe9.jpg", "%E9.jpg")]
)
def test_the_bytes_of_a_redirect_are_escaped_one_by_one(
    server: ChaosServer, monkeypatch: pytest.MonkeyPatch, location: bytes, sent: str
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect", redirect(location.decode("latin-1")))  # and so encoded again
    fetch(server.url("/redirect"))
    assert [request.path for request in server.requests] == ["/redirect", f"/picture/{sent}"]


@pytest.mark.parametrize("host", ["xn--", "xn--99999999.com", "a..b", "cdn.xn--a"])
def test_a_malformed_host_is_a_row_and_its_neighbour_arrives(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/redirect-as-told", redirect(f"http://{host}/x.jpg"))
    urls = [f"http://{host}/x.jpg", server.url("/redirect-as-told"), server.url("/good/1")]
    malformed, redirected, good = image_rows(store, urls)
    assert malformed["status"] == "invalid_url"
    assert redirected["status"] in ("invalid_url", "redirect_error")
    assert good["status"] == "ok"
