"""Failures of names, connections and certificates are rows with a status."""

from pathlib import Path

import pytest
import trustme

from pipeline.store import Store
from tests.support.chaos_server import BEHAVIOURS, Behaviour, ChaosServer, Request, body, redirect
from tests.support.images_stage import image_rows
from tests.support.tls import server_context


def test_names_and_certificates_that_fail_are_rows(store: Store, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        ChaosServer(tls=server_context(authority)) as trusted,
        ChaosServer(tls=server_context(stranger)) as untrusted,
        ChaosServer(tls=server_context(authority, "another.example")) as misnamed,
    ):
        rows = image_rows(
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
    assert [row["status"] for row in rows] == ["ok", "tls_error", "tls_error", "dns_error", "connect_error"]
    assert untrusted.counts.total() == misnamed.counts.total() == 0


SECRET = b"hunter2"


async def _bare(_: ChaosServer, request: Request) -> None:
    request.writer.write(SECRET + b" 200 OK\r\n\r\n")
    request.writer.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        body(SECRET),
        body(b'{"password": "' + SECRET + b'"}'),
        body(b"BM" + SECRET * 9),
        body(b"\x89PNG\r\n\x1a\n\0\0\0\7" + SECRET * 9),
        body(b"II*\0\x08\0\0\0" + SECRET * 9),
        redirect(f"gopher://{SECRET.decode()}/"),
        redirect(f"{SECRET.decode()}:x"),
        redirect(f"http://[{SECRET.decode()}/"),
        _bare,
    ],
)
def test_no_reason_quotes_what_a_server_sent(
    store: Store, server: ChaosServer, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "/told", behaviour)
    (row,) = image_rows(store, [server.url("/told")], attempts=1)
    assert row["status"] != "ok"
    assert row["error"]
    assert "hunter" not in row["error"]
