"""Who may ask, and what a request may cost: on a real server, with clients that misbehave."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.serving import protection
from pipeline.store import Store
from tests.support.service import DEADLINE, Service, serving

KEY = "a-key-of-this-test-0123456789"
USER = "/v1/shop/recommend/u000"


@pytest.fixture(scope="module")
def locked(registered: Path) -> Iterator[Service]:
    """A service that asks for a key."""
    with serving(Store(registered), key=KEY) as service:
        yield service


@pytest.mark.parametrize("path", [USER, "/", "/shop", "/v1", "/v1/openapi.json", "/metrics"])
def test_nothing_but_health_is_answered_without_the_key(locked: Service, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic ü"}, {"Authorization": f"x {KEY}"}):
        raw = {name: value.encode() for name, value in headers.items()}
        answer = locked.client.get(path, headers=raw)
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert locked.client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert locked.client.get(path, auth=("anybody", KEY)).status_code == 200, "a browser's login"


def test_health_needs_no_key_and_names_nothing_without_one(locked: Service) -> None:
    assert locked.client.get("/healthz").status_code == 200
    assert locked.client.get("/readyz").json() == {"status": "ready"}
    assert locked.client.get("/readyz", auth=("", KEY)).json()["served"] == {"shop": "1"}


def test_without_a_key_only_requests_for_this_machines_names_are_answered(service: Service) -> None:
    assert service.client.get(USER, headers={"Host": "attacker.example"}).status_code == 403
    assert service.client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert service.client.get(USER, headers={"Host": "localhost:8000"}).status_code == 200
    assert service.client.get(USER, headers={"Host": "["}).status_code == 400


@pytest.mark.parametrize(
    "request_", [b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01 nonsense\r\n\r\n"]
)
def test_a_request_that_is_none_is_refused_without_a_trace(
    service: Service, capfd: pytest.CaptureFixture[str], request_: bytes
) -> None:
    with service.connect() as connection:
        connection.sendall(request_)
        assert connection.makefile("rb").readline().split(b" ")[1] in (b"400", b"404")
    assert "Traceback" not in capfd.readouterr().err


def test_a_body_of_10_mb_is_refused_whether_it_says_its_size_or_not(service: Service) -> None:
    for content in (b"x" * 10_000_000, iter([b"x" * 5_000_000] * 2)):
        answer = service.client.post("/v1/shop/recommend", content=content)
        assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert service.client.get(USER).status_code == 200


def test_a_body_that_says_it_has_a_gigabyte_is_refused_at_once(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /v1/shop/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert b" 413 " in connection.makefile("rb").readline()


def test_300_clients_that_never_finish_keep_nobody_waiting_and_are_hung_up_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protection, "ARRIVAL_SECONDS", 2.0)
    half = b"GET /v1/shop/recommend/u000 HTTP/1.1\r\nHost: localhost\r\nX: "
    body = b"POST /v1/shop/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    slow = [service.connect() for _ in range(300)]
    for number, connection in enumerate(slow):
        connection.sendall(half if number % 2 else body)
    assert all(service.client.get(USER).status_code == 200 for _ in range(20))
    for connection in slow:
        with connection, contextlib.suppress(ConnectionResetError):
            rest = connection.makefile("rb").read()
            assert not rest or rest.startswith(b"HTTP/1.1 408")


def test_a_client_that_sends_a_byte_now_and_then_is_hung_up_on_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protection, "ARRIVAL_SECONDS", 2.0)
    stop = threading.Event()
    with service.connect() as connection:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
                while not stop.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b"", "closed without an answer"
        stop.set()
        thread.join()


def test_a_connection_is_kept_between_requests(service: Service) -> None:
    with service.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in receive(connection, b'"ok"}')


def receive(connection: socket.socket, end: bytes) -> bytes:
    """What arrives up to `end`."""
    data = b""
    connection.settimeout(DEADLINE)
    while not data.endswith(end):
        part = connection.recv(4096)
        assert part, data
        data += part
    return data
