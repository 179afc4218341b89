"""An HTTP server on loopback that misbehaves on request, path by path, and remembers what it was asked.

It runs on an event loop in a thread of its own. Only `/slow-loris` waits for wall-clock time, which is its point; every
test sets limits to its client instead.
"""

import asyncio
import contextlib
import gzip
import io
import socket
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from PIL import Image


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A small JPEG, different for each seed."""
    image = Image.radial_gradient("L").resize(size)
    colour = Image.new("L", size, seed * 37 % 256)
    out = io.BytesIO()
    Image.merge("RGB", (image, colour, Image.new("L", size, seed // 7 % 256))).save(out, "JPEG", quality=85)
    return out.getvalue()


def png_bomb(side: int) -> bytes:
    """A PNG of side × side black pixels in about side²/8000 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (side + 7) // 8)
    rows = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    nth: int
    """1 for the first request of this path."""


Behaviour = Callable[["ChaosServer", Request], Awaitable[None]]


@dataclass
class ChaosServer:
    """A context manager. With `tls` it is an https server; `pictures` overrides the body of `/good/<n>` by path."""

    tls: ssl.SSLContext | None = None
    pictures: dict[str, bytes] = field(default_factory=dict)
    validators: dict[str, str] = field(default_factory=dict)
    """Extra headers, e.g. ETag or Last-Modified, of every good picture."""
    counts: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0
    hold: threading.Event = field(default_factory=threading.Event)
    """`/held` answers as soon as this is set."""
    meet: asyncio.Barrier = field(default_factory=lambda: asyncio.Barrier(3))
    """`/rendezvous` answers as soon as three requests are waiting."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._active = 0
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            while not writer.is_closing():
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if k}
                path = lines[0].split(" ")[1]
                self.counts[path] += 1
                request = Request(path, headers, writer, self.counts[path])
                self.requests.append(request)
                self._active += 1
                self.most_at_once = max(self.most_at_once, self._active)
                try:
                    await BEHAVIOURS["/" + path.split("/")[1]](self, request)
                finally:
                    self._active -= 1
        writer.close()


async def answer(
    request: Request, status: str = "200 OK", body: bytes = b"", length: int | None = None, **headers: str
) -> None:
    """Write one whole response; `length` overrides the announced Content-Length. `Retry_After="1"` adds a header."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    request.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    await request.writer.drain()


async def good(server: ChaosServer, request: Request) -> None:
    body = server.pictures.get(request.path)
    if body is None:
        body = jpeg(int(request.path.rsplit("/", 1)[1]))
    conditions = {request.headers.get("if-none-match"), request.headers.get("if-modified-since")} - {None}
    if conditions and conditions <= set(server.validators.values()):
        await answer(request, "304 Not Modified", **server.validators)
    else:
        await answer(request, body=body, Content_Type="image/jpeg", **server.validators)


def status(line: str, **headers: str) -> Behaviour:
    async def behave(_: ChaosServer, request: Request) -> None:
        await answer(request, line, b"<html>no</html>", **headers)

    return behave


def body(content: bytes, kind: str = "image/jpeg", **headers: str) -> Behaviour:
    async def behave(_: ChaosServer, request: Request) -> None:
        await answer(request, body=content, Content_Type=kind, **headers)

    return behave


def redirect(location: str) -> Behaviour:
    async def behave(server: ChaosServer, request: Request) -> None:
        await answer(request, "302 Found", Location=location.format(port=server.port))

    return behave


def at_first(times: int, line: str, **headers: str) -> Behaviour:
    """Refuse the first `times` requests for a path, then be good."""

    async def behave(server: ChaosServer, request: Request) -> None:
        if request.nth <= times:
            await answer(request, line, **headers)
        else:
            await answer(request, body=jpeg(1))

    return behave


async def slow_loris(_: ChaosServer, request: Request) -> None:
    """One byte at a time, often enough that no read times out."""
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        request.writer.write(b"\xff")
        await request.writer.drain()
        await asyncio.sleep(0.01)


async def silent(_: ChaosServer, __: Request) -> None:
    await asyncio.Event().wait()


async def rendezvous(server: ChaosServer, request: Request) -> None:
    await server.meet.wait()
    await answer(request, body=jpeg(6))


async def surplus(_: ChaosServer, request: Request) -> None:
    """The picture, and in the same breath one that nobody asked for."""
    request.writer.write(_whole(jpeg(7)) + _whole(jpeg(8)))
    await request.writer.drain()


async def late_surplus(server: ChaosServer, request: Request) -> None:
    """The picture, and as soon as `hold` is set one that nobody asked for."""
    request.writer.write(_whole(jpeg(7)))
    await request.writer.drain()
    await asyncio.to_thread(server.hold.wait)
    request.writer.write(_whole(jpeg(8)))
    await request.writer.drain()


def _whole(picture: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture


async def held(server: ChaosServer, request: Request) -> None:
    await asyncio.to_thread(server.hold.wait)
    await answer(request, body=jpeg(2))


async def endless(_: ChaosServer, request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        request.writer.write(b"10000\r\n" + b"\xff" * 0x10000 + b"\r\n")
        await request.writer.drain()


async def wrong_length(_: ChaosServer, request: Request) -> None:
    await answer(request, body=jpeg(3), length=100_000)
    request.writer.close()


async def reset(_: ChaosServer, request: Request) -> None:
    connection = request.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.writer.transport.abort()


async def not_http(_: ChaosServer, request: Request) -> None:
    request.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await request.writer.drain()
    request.writer.close()


BEHAVIOURS: dict[str, Behaviour] = {
    "/good": good,
    "/picture": body(jpeg(1)),
    "/404": status("404 Not Found"),
    "/410": status("410 Gone"),
    "/403": status("403 Forbidden"),
    "/400": status("400 Bad Request"),
    "/429-for-long": status("429 Too Many Requests", Retry_After="3600"),
    "/429-then-fine": at_first(1, "429 Too Many Requests", Retry_After="0"),
    "/500": status("500 Internal Server Error"),
    "/500-then-fine": at_first(1, "500 Internal Server Error"),
    "/500-thrice-then-fine": at_first(3, "500 Internal Server Error"),
    "/slow-loris": slow_loris,
    "/silent": silent,
    "/held": held,
    "/surplus": surplus,
    "/late-surplus": late_surplus,
    "/rendezvous": rendezvous,
    "/endless": endless,
    "/announced-too-large": body(b"\xff" * 300_000),
    "/gzip-bomb": body(gzip.compress(bytes(20 << 20), 6), Content_Encoding="gzip"),
    "/wrong-length": wrong_length,
    "/redirect": redirect("/good/4"),
    "/redirect-loop": redirect("/redirect-loop"),
    "/redirect-nowhere": redirect(""),
    "/redirect-to-private": redirect("http://10.0.0.1/x.jpg"),
    "/redirect-to-loopback-name": redirect("http://localhost:{port}/good/1"),
    "/redirect-to-mapped": redirect("http://[::ffff:127.0.0.1]:{port}/good/1"),
    "/redirect-to-metadata": redirect("http://169.254.169.254/latest/meta-data"),
    "/redirect-to-file": redirect("file:///etc/passwd"),
    "/html": body(b"<!DOCTYPE html><title>Sorry</title>"),
    "/png-bomb": body(png_bomb(12_000), "image/png"),
    "/huge-png-bomb": body(png_bomb(20_000), "image/png"),
    "/empty": body(b""),
    "/truncated": body(jpeg(5, (400, 400))[:-700]),
    "/reset": reset,
    "/not-http": not_http,
}
