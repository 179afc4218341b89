"""An HTTP/2 server over TLS that counts its connections and answers every GET with the same body."""

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, WindowUpdated


@dataclass
class Http2Server:
    """A context manager; `body` may be longer than a flow-control window."""

    tls: ssl.SSLContext
    body: bytes
    connections: int = 0
    paths: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.tls.set_alpn_protocols(["h2"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=self.tls)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, server: Http2Server) -> None:
        self._server = server
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._unsent: dict[int, memoryview] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections += 1
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived):
                headers = dict(event.headers)
                self._server.paths.append(headers[":path"])
                self._h2.send_headers(event.stream_id, [(":status", "200"), ("etag", '"h2"')])
                self._unsent[event.stream_id] = memoryview(self._server.body)
            if isinstance(event, RequestReceived | WindowUpdated):
                self._send_what_fits()
        self._flush()

    def _send_what_fits(self) -> None:
        for stream, left in list(self._unsent.items()):
            while left and (room := min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)):
                piece, left = left[:room], left[room:]
                self._h2.send_data(stream, bytes(piece), end_stream=not left)
            self._unsent[stream] = left
            if not left:
                del self._unsent[stream]

    def _flush(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._transport.write(self._h2.data_to_send())
