"""The two ways to a server: HTTP/1.1 through aiohttp, and HTTP/2 through httpcore. Both verify certificates, keep
connections alive and connect to addresses that the guard has let pass, to no others.

aiohttp is the usual one: a 70 KB picture over https costs it 0.25 ms of CPU, HTTP/2 through httpcore (which is what
httpx runs on) 1.0 ms, on the machine where decoding the picture takes 2.1 ms.
"""

import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import certifi
import httpcore
from multidict import CIMultiDict
from yarl import URL

from pipeline.images.addresses import GuardedResolver
from pipeline.images.answer import Answer, delimited
from schemas.images import ImagesConfig

UNPACKED = 1 << 18
"""Bytes of a compressed body that are unpacked at a time."""


class Http1:
    """HTTP/1.1 to any host."""

    def __init__(self, config: ImagesConfig, resolver: GuardedResolver) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=config.concurrency, ssl=tls_context(config.ca_file), resolver=resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout
            ),
            read_bufsize=1 << 18,
        )

    @asynccontextmanager
    async def get(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Raises: aiohttp.ClientError, OSError, PictureError from the guard."""
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            yield Answer(response.status, response.headers, response.content.iter_any(), delimited(response.headers))

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


class Http2:
    """HTTP/2 to https hosts that speak it, HTTP/1.1 to those that do not."""

    def __init__(self, config: ImagesConfig, resolver: GuardedResolver) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls_context(config.ca_file),
            max_connections=config.concurrency,
            keepalive_expiry=15.0,
            http2=True,
            network_backend=_GuardedBackend(resolver),
        )
        self._timeouts = {
            "connect": config.connect_timeout,
            "read": config.read_timeout,
            "write": config.read_timeout,
            "pool": config.total_timeout,
        }

    @asynccontextmanager
    async def get(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Raises: httpcore's exceptions, PictureError from the guard."""
        target = httpcore.URL(
            scheme=url.scheme, host=url.raw_host or "", port=url.port, target=url.raw_path_qs.encode("ascii")
        )
        sent: list[tuple[bytes | str, bytes | str]] = [("Host", url.host_port_subcomponent or ""), *headers.items()]
        async with self._pool.stream("GET", target, headers=sent, extensions={"timeout": self._timeouts}) as response:
            found = CIMultiDict((_text(name), _text(value)) for name, value in response.headers)
            pieces = _unpacked(response.aiter_stream(), found.get("Content-Encoding", ""))
            framed = response.extensions.get("http_version") == b"HTTP/2"
            yield Answer(response.status, found, pieces, framed or delimited(found))

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


def _text(header: bytes) -> str:
    """As aiohttp reads them, so that both transports follow a redirect to the same place."""
    return header.decode("utf-8", "surrogateescape")


async def _unpacked(pieces: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The body without the compression that some servers apply unasked (aiohttp undoes it by itself)."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        async for piece in pieces:
            yield piece
        return
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes
    try:
        async for piece in pieces:
            while piece:  # bounded, so that whoever counts bytes can stop a bomb
                yield unpack.decompress(piece, UNPACKED)
                piece = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error as error:
        raise httpcore.RemoteProtocolError(f"the body is not {encoding}: {error}") from error
    if not unpack.eof:
        raise httpcore.RemoteProtocolError(f"the {encoding} body broke off")


class _GuardedBackend(httpcore.AnyIOBackend):
    """Connects to the addresses that the guard lets pass, one after another until one answers."""

    def __init__(self, resolver: GuardedResolver) -> None:
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: httpcore.ConnectError | None = None
        for answer in await self._resolver.resolve(host, port):
            try:
                return await super().connect_tcp(answer["host"], port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies certificates against the system's and certifi's authorities, and those in `ca_file`."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
