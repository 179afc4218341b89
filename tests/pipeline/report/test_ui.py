"""The server of a store's pages."""

import socket
import threading

import httpx
import pytest

from pipeline.report.ui import bound
from pipeline.store import Store
from schemas.errors import UserError


def test_a_request_under_another_hosts_name_is_refused(store: Store, client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_a_request_that_is_no_url_is_answered_400_without_a_trace(
    store: Store, capfd: pytest.CaptureFixture[str], request_: bytes
) -> None:
    with bound(store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            connection.sendall(request_)
            assert connection.makefile("rb").read().split(b" ")[1] == b"400"
        server.shutdown()
    assert "Traceback" not in capfd.readouterr().err


def test_a_taken_port_is_reported(store: Store) -> None:
    with bound(store) as server, pytest.raises(UserError, match="Choose another"), bound(store, server.server_port):
        pass
