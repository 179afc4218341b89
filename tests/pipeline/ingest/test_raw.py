"""Raw files from a folder, or from a server that misbehaves: what arrives is whole, and is asked for once."""

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from pipeline.ingest import raw as raw_module
from pipeline.ingest.raw import RawFiles
from schemas.errors import UserError
from tests.support.actors import Actor, Stop

BODY = bytes(range(256)) * 20_000  # 5 MB


@dataclass
class Site:
    """A server whose answers a test decides; it notes every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"x.json.gz": BODY})
    etag: str = '"one"'
    cut_after: list[int | None] = field(default_factory=list)
    """Of each GET in turn, the bytes of the body after which the connection is dropped; None: not at all."""
    statuses: list[int] = field(default_factory=list)
    """Of each request in turn, a status to answer with instead; 0: as usual."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, Range header."""
    logins: set[str] = field(default_factory=set)
    """Authorization headers of the requests."""
    ranges: bool = True
    redirect: str = ""
    """Where `x.json.gz` is said to be instead."""

    @property
    def gets(self) -> list[str]:
        return [wanted for method, _, wanted in self.requests if method == "GET"]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            site.requests.append((self.command, self.path, self.headers.get("Range", "")))
            site.logins.add(self.headers.get("Authorization", ""))
            status = site.statuses.pop(0) if site.statuses else 0
            body = site.files.get(self.path[1:])
            if site.redirect and self.path == "/x.json.gz":
                self.send_response(302)
                self.send_header("Location", site.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif status or body is None:
                self.send_response(status or 404)
                self.send_header("Location", self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif with_body and self.headers.get("If-None-Match") == site.etag:
                self.send_response(304)
                self.end_headers()
            else:
                self.send(body, with_body)

        def send(self, body: bytes, with_body: bool) -> None:
            wanted = self.headers.get("Range", "") if site.ranges else ""
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            if start and self.headers.get("If-Range") != site.etag:
                start = 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if with_body:
                cut = site.cut_after.pop(0) if site.cut_after else None
                self.wfile.write(body[start:] if cut is None else body[start : start + cut])
                if cut is not None:
                    self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def at(tmp_path: Path) -> Callable[..., RawFiles]:
    """`at(url)`: raw files at an address, with a cache of the test's own and no waiting between attempts."""
    return lambda url, attempts=3: RawFiles(url, tmp_path / "cache", attempts=attempts, wait=0.0)


def test_download_is_whole_and_asked_for_once(site, at) -> None:
    first = at(site.url).fetch("x.json.gz")
    second = at(f"{site.url}/").fetch("x.json.gz")
    assert first == second
    assert first.path.read_bytes() == BODY
    assert first.sha256 == sha256(BODY).hexdigest()
    assert len(site.gets) == 2  # the second was answered 304, without a body


def test_broken_download_resumes_where_it_stopped(site, at) -> None:
    site.cut_after = [3 << 20, 1 << 20, None]
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY
    assert site.gets == ["", f"bytes={3 << 20}-", f"bytes={4 << 20}-"]


def test_another_run_resumes_what_a_dead_one_left(site, at) -> None:
    site.cut_after = [2 << 20]
    with pytest.raises(UserError, match="RemoteProtocolError"):
        at(site.url, attempts=1).fetch("x.json.gz")
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY
    assert site.gets == ["", f"bytes={2 << 20}-"]


def test_file_that_changed_meanwhile_is_fetched_afresh(site, at) -> None:
    site.cut_after = [2 << 20]
    with pytest.raises(UserError):
        at(site.url, attempts=1).fetch("x.json.gz")
    site.etag, site.files["x.json.gz"] = '"two"', BODY[::-1]
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY[::-1]


def test_server_without_ranges_is_asked_for_the_whole_again(site, at) -> None:
    site.ranges, site.cut_after = False, [2 << 20]
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY


def test_changed_file_replaces_the_cached_one(site, at) -> None:
    first = at(site.url).fetch("x.json.gz")
    site.etag, site.files["x.json.gz"] = '"two"', b"other"
    second = at(site.url).fetch("x.json.gz")
    assert second.path.read_bytes() == b"other"
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("cut_after", [[None, None], [2 << 20, None, None]])
def test_validator_that_is_not_printable_ascii_is_ignored(site, at, cut_after) -> None:
    site.etag, site.cut_after = '"caf\xe9"', cut_after
    for _ in range(2):
        assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY
    assert set(site.gets) == {""}


def test_damaged_cache_is_noticed_and_fetched_again(site, at) -> None:
    path = at(site.url).fetch("x.json.gz").path
    path.write_bytes(BODY[:-1] + b"?")
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY


def test_passing_failures_are_tried_again(site, at) -> None:
    site.statuses = [503, 429]
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY


def test_server_that_stays_broken_is_a_user_error(site, at) -> None:
    site.statuses = [503] * 3
    with pytest.raises(UserError, match=r"could not download .*x\.json\.gz: HTTP 503.*Run again to resume"):
        at(site.url).fetch("x.json.gz")
    assert len(site.requests) == 3


def test_cached_copy_serves_when_the_server_is_away(site, at, monkeypatch) -> None:
    path = at(site.url).fetch("x.json.gz").path
    site.statuses = [503] * 20
    assert at(site.url).find("the reviews", ["x.json.gz"]) == "x.json.gz"
    assert at(site.url).fetch("x.json.gz").path == path


def test_missing_file_names_every_address_that_was_tried(site, at) -> None:
    with pytest.raises(UserError) as refused:
        at(site.url).find("the reviews", ["a.json.gz", "a.json"])
    assert "the reviews not found" in str(refused.value)
    assert f"{site.url}/a.json.gz, {site.url}/a.json" in str(refused.value)
    with pytest.raises(UserError, match="does not exist"):
        at(site.url).fetch("a.json")


@pytest.mark.parametrize(("status", "says"), [(403, "answers HTTP 403"), (302, "more than 5 redirects")])
def test_refusals_and_redirect_loops_are_user_errors(site, at, status, says) -> None:
    site.statuses = [status] * 20
    with pytest.raises(UserError, match=says):
        at(site.url).fetch("x.json.gz")


def test_server_that_refuses_head_is_asked_with_get(site, at) -> None:
    site.statuses = [405]
    assert at(site.url).find("the reviews", ["x.json.gz"]) == "x.json.gz"


def test_the_login_is_the_address_s_or_the_machine_s(site, at, monkeypatch, tmp_path) -> None:
    (tmp_path / "netrc").write_text(f"machine {urlsplit(site.url).netloc} login reader password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for url, login in ((site.url, "reader:s3cret"), (site.url.replace("//", "//me:mine@"), "me:mine")):
        place = at(url)
        place.fetch(place.find("the reviews", ["x.json.gz"]))
        assert site.logins == {f"Basic {b64encode(login.encode()).decode()}"}
        site.logins.clear()


@pytest.mark.parametrize("address", ["http://no-such-host.invalid", "http://127.0.0.1:9"])
def test_unreachable_place_is_a_user_error(at, address) -> None:
    with pytest.raises(UserError, match=r"no-such-host\.invalid|127\.0\.0\.1:9"):
        at(address).find("the reviews", ["x.json.gz"])
    with pytest.raises(UserError, match=r"no-such-host\.invalid|127\.0\.0\.1:9"):
        at(address).fetch("x.json.gz")


@pytest.mark.parametrize("host", ["xn--", "xn--99999999.com", "a..b"])
def test_malformed_host_is_a_user_error(at, host) -> None:
    with pytest.raises(UserError, match="not an address that can be downloaded"):
        at(f"http://{host}/x").find("the reviews", ["x.json.gz"])
    with pytest.raises(UserError, match="not an address that can be downloaded"):
        at(f"http://{host}/x").fetch("x.json.gz")


def test_a_name_of_255_bytes_can_be_downloaded(site, at) -> None:
    name = "ß" * 125 + ".json"
    site.files[quote(name)] = BODY
    file = at(site.url).fetch(name)
    assert (file.name, file.path.read_bytes()) == (name, BODY)
    assert at(site.url).fetch(name) == file


def fetch_slowly(stop: Stop, url: str, folder: Path) -> str:
    """Fetch, and stop in the middle of the file."""
    receive = raw_module._Download._receive

    def slowly(*arguments: Any) -> None:
        stop()
        receive(*arguments)

    raw_module._Download._receive = slowly
    return RawFiles(url, folder).fetch("x.json.gz").sha256


@pytest.mark.slow
def test_two_data_sets_that_need_the_same_file_at_the_same_time_download_it_once(site, tmp_path) -> None:
    first = Actor(fetch_slowly, site.url, tmp_path).reach()
    second = Actor(fetch_slowly, site.url, tmp_path)
    second.until_it_waits()
    first.go_on()
    assert first.result() == second.result() == sha256(BODY).hexdigest()
    assert len(site.gets) == 2  # the second was answered 304


def test_folder_is_read_in_place_and_a_missing_file_lists_what_is_there(at, tmp_path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "meta_Y.json").write_bytes(b"{}")
    place = at(str(tmp_path / "raw"))
    file = place.fetch(place.find("the metadata", ["meta_Y.json.gz", "meta_Y.json"]))
    assert (file.name, file.path) == ("meta_Y.json", tmp_path / "raw" / "meta_Y.json")
    assert place.base == (tmp_path / "raw").as_uri() + "/"
    with pytest.raises(UserError, match=r"Expected a\.json; .* holds meta_Y\.json"):
        place.find("the reviews", ["a.json"])
    with pytest.raises(UserError, match="is not a folder"):
        at(str(tmp_path / "nowhere")).find("the reviews", ["a.json"])


def test_long_folder_is_not_listed_whole(at, tmp_path) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}.jpg").touch()
    with pytest.raises(UserError, match=rf"and {50 - raw_module.LISTED} more"):
        at(str(tmp_path)).find("the reviews", ["a.json"])


def test_a_redirect_to_an_address_that_is_not_public_is_not_followed(site, at) -> None:
    """The place itself may have any address, as the operator named it; another port of it is another place."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # it would hang: nobody serves it
        site.redirect = f"http://127.0.0.1:{other.server_port}/x.json.gz"
        for call in (lambda: at(site.url).fetch("x.json.gz"), lambda: at(site.url).find("it", ["x.json.gz"])):
            with pytest.raises(UserError, match=r"not follow.*127\.0\.0\.1 is not a public address.*give that address"):
                call()
    site.redirect = f"{site.url}/y.json.gz"
    site.files["y.json.gz"] = BODY
    assert at(site.url).fetch("x.json.gz").path.read_bytes() == BODY
