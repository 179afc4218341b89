"""Two transports: HTTP/1.1 through aiohttp, and HTTP/2 through httpcore. Both verify certificates, keep connections
alive and connect only to addresses that the guard permits.

aiohttp is the default: a 70 KB picture over https costs 0.25 ms of CPU with it, and 1.0 ms with HTTP/2 through httpcore
(the library below httpx), on a machine where decoding the picture takes 2.1 ms.
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
from pipeline.images.response import Response, is_delimited
from schemas.images import ImagesConfig

UNPACKED = 1 << 18
"""Bytes that are decompressed at a time."""


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
    async def get(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[Response]:
        """Raises: aiohttp.ClientError, OSError, PictureError from the guard."""
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            headers = response.headers
            yield Response(response.status, headers, response.content.iter_any(), is_delimited(headers))

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
    async def get(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[Response]:
        """Raises: httpcore's exceptions, PictureError from the guard."""
        target = httpcore.URL(
            scheme=url.scheme, host=url.raw_host or "", port=url.port, target=url.raw_path_qs.encode("ascii")
        )
        sent: list[tuple[bytes | str, bytes | str]] = [("Host", url.host_port_subcomponent or ""), *headers.items()]
        async with self._pool.stream("GET", target, headers=sent, extensions={"timeout": self._timeouts}) as response:
            received = CIMultiDict((_text(name), _text(value)) for name, value in response.headers)
            pieces = _unpacked(response.aiter_stream(), received.get("Content-Encoding", ""))
            framed = response.extensions.get("http_version") == b"HTTP/2"
            yield Response(response.status, received, pieces, framed or is_delimited(received))

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


def _text(header: bytes) -> str:
    """Decoded like aiohttp does, so that both transports follow a redirect to the same URL."""
    return header.decode("utf-8", "surrogateescape")


async def _unpacked(pieces: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The body without the compression that some servers apply unasked (aiohttp removes it by itself)."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        async for piece in pieces:
            yield piece
        return
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes
    try:
        async for piece in pieces:
            while piece:  # in bounded pieces, so that the caller, who counts bytes, can stop a bomb
                yield unpack.decompress(piece, UNPACKED)
                piece = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error as error:
        raise httpcore.RemoteProtocolError(f"the body is not {encoding}: {error}") from error
    if not unpack.eof:
        raise httpcore.RemoteProtocolError(f"the {encoding} body broke off")


class _GuardedBackend(httpcore.AnyIOBackend):
    """Connects to the addresses that the guard permits, one after another until one answers."""

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
        for address in await self._resolver.resolve(host, port):
            try:
                return await super().connect_tcp(address["host"], port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies certificates against the authorities of the system, of certifi and in `ca_file`."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
