"""A real S3 server on loopback, and a way to it that breaks down when a test says so."""

import contextlib
import http.client
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import s3fs

from flows.local import executable
from tests.support.ports import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "acce55key0f7he7est", "AWS_SECRET_ACCESS_KEY": "s3cr3tkey0f7he7est"}
DEADLINE = 300.0
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Way(ThreadingHTTPServer):
    """Passes requests on to the server, except those whose method and answer the next of `faults` names.

    Attributes:
        faults: of requests with that method, in turn: `slow down` (503), or `half` (the connection ends within the
            body); `whole` passes it on.
        seen: method and path of every request.
    """

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port = port
        self.faults: dict[str, list[str]] = {}
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        """The address to give as AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.server_port}"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Way

    def handle_any(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))
        faults = self.server.faults.get(self.command, [])
        fault = faults.pop(0) if faults else "whole"
        if fault == "slow down":
            self.answer(503, {"Content-Type": "application/xml", "Content-Length": str(len(SLOW_DOWN))}, SLOW_DOWN)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        given = connection.getresponse()
        body = given.read()
        headers = {k: v for k, v in given.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
        if self.command != "HEAD" and given.status not in (204, 304):
            headers["Content-Length"] = str(len(body))
        self.close_connection = fault == "half"
        self.answer(given.status, headers, body[: len(body) // 2] if fault == "half" else body)
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - names of http.server

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[Way]:
    """An S3 server with an empty bucket `shop`, until the block ends; the environment holds its keys and address."""
    with tempfile.TemporaryDirectory(prefix="cm3-s3-") as folder, pytest.MonkeyPatch.context() as patch:
        port, *others = (free_port() for _ in range(4))
        names = ("master.port", "volume.port", "filer.port")
        command = [
            executable("weed"),
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-volume.max=0",
        ]
        command += ["-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"]
        command += [f"-{name}={other}" for name, other in zip(names, others, strict=True)]
        log = Path(folder, "weed.log")
        with log.open("wb") as file:
            server = subprocess.Popen(command, env=os.environ | KEYS, stdout=file, stderr=file, start_new_session=True)
        way = Way(port)
        try:
            _wait(port, server, log)
            for name, value in {
                **KEYS,
                "AWS_ENDPOINT_URL": way.url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_MAX_ATTEMPTS": "2",
            }.items():
                patch.setenv(name, value)
            patch.delenv("AWS_PROFILE", raising=False)
            s3fs.S3FileSystem.clear_instance_cache()  # those of another test know another server's address
            fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
            deadline = time.monotonic() + DEADLINE
            while True:  # the port answers before the volumes are there
                try:
                    fs.makedirs("shop", exist_ok=True)
                    fs.pipe_file("shop/_ready", b"yes")
                    fs.rm_file("shop/_ready")
                    break
                except OSError:
                    assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                    time.sleep(0.2)
            yield way
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            way.shutdown()
            way.server_close()
            server.kill()  # it takes 15 to 25 s to stop, and its folder is deleted
            server.wait()


def _wait(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                return
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.1)
