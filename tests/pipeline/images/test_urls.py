"""What is sent: the path and query of the catalogue or a redirect, byte for byte."""

from base64 import b64encode
from urllib.parse import quote

import pytest

from pipeline.images.urls import parse_url
from pipeline.store import Store
from schemas.images import ImagesConfig
from tests.support.chaos_server import BEHAVIOURS, ChaosServer, jpeg, png_bomb, redirect
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
        ("/picture/x?a=1&amp;b=2", "/picture/x?a=1&b=2"),
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


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://Shop.Example/A.jpg", "https://shop.example/A.jpg"),
        ("//cdn.example/a.jpg?x=1", "https://cdn.example/a.jpg?x=1"),
        (" http://shop.example/a b.jpg\n", "http://shop.example/a%20b.jpg"),
    ],
)
def test_what_a_browser_loads_is_loaded(text: str, url: str) -> None:
    assert str(parse_url(text)) == url


@pytest.mark.parametrize(
    "text", ["s3://bucket/a.jpg", "img\\a.jpg", "a.jpg", "http://", "javascript:0", "https:///a.jpg"]
)
def test_what_names_no_picture_is_a_row_that_says_so(store: Store, text: str) -> None:
    (row,) = image_rows(store, [text])
    assert (row["status"], row["url"]) == ("invalid_url", text)
    assert row["error"]


def test_a_picture_within_its_url_is_decoded_under_the_same_limits(store: Store) -> None:
    packed = b64encode(jpeg(1)).decode()
    urls = [
        f"data:image/jpeg;base64,{packed}",
        f" DATA:;base64,{quote(packed.rstrip('='))}",
        f"data:image/jpeg,{quote(jpeg(1))}",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64,x",
        "data:image/png",
        f"data:image/png;base64,{b64encode(png_bomb(4000)).decode()}",
        f"data:image/jpeg;base64,{b64encode(jpeg(1) + bytes(200_000)).decode()}",
    ]
    rows = image_rows(store, urls)
    expected = ["ok"] * 3 + ["decode_error", "invalid_url", "invalid_url", "too_many_pixels", "too_large"]
    assert [row["status"] for row in rows] == expected
    assert len({row["sha256"] for row in rows[:3]}) == 1
