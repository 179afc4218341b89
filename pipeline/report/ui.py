"""`cm3 ui`: the store's pages over loopback HTTP, read only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pipeline.report.index import respond
from pipeline.store import Store
from schemas.errors import UserError

logger = logging.getLogger(__name__)

LOCAL_NAMES = ("127.0.0.1", "localhost")
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@contextmanager
def bound(store: Store, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A server bound to 127.0.0.1: call its `serve_forever()`, and `shutdown()` from another thread.

    Args: port: 0 takes a free one; `server.server_address[1]` tells which.
    Raises: UserError: the port is taken.
    """
    handler = type("StoreHandler", (_Handler,), {"store": store})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(
            f"Port {port} cannot be used: {error.strerror}. Choose another one, or 0 for any free one."
        ) from error
    server.daemon_threads = True
    try:
        yield server
    finally:
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    timeout = 30  # seconds a silent connection keeps its thread

    def do_GET(self) -> None:
        try:
            host, path = urlsplit(f"//{self.headers.get('Host', '')}").hostname, urlsplit(self.path).path
        except ValueError:
            self._send(400, "text/plain; charset=utf-8", b"This request's address cannot be read.\n")
            return
        if host not in LOCAL_NAMES:
            # Another site whose name resolves to this machine must not read the store.
            self._send(403, "text/plain; charset=utf-8", b"This server answers to 127.0.0.1 and localhost only.\n")
            return
        try:
            self._send(*respond(self.store, path))
        except (OSError, UserError) as error:
            logger.warning("%s: %s", path, error)
            self._send(500, "text/plain; charset=utf-8", f"The store could not be read: {error}\n".encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        if b"Content-Security-Policy" not in body[:4000]:  # a report has its own, which allows its script
            self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
