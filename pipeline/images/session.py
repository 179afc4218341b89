"""The HTTP session: it verifies certificates, keeps connections alive, connects only to addresses that the guard
permits, and takes one answer for one request."""

import ssl

import aiohttp
import certifi
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection

from pipeline.images.resolver import GuardedResolver
from schemas.images import ImagesConfig


def open_session(config: ImagesConfig, resolver: GuardedResolver) -> aiohttp.ClientSession:
    """HTTP/1.1 to any host. HTTP/2 was tried and left out: it took four times the CPU for the same picture."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.concurrency, ssl=tls_context(config.ca_file), resolver=resolver),
        request_class=_Request,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout),
        read_bufsize=1 << 18,
    )


class _Request(ClientRequest):
    """Not sent on a connection that brought more than one answer after the last request.

    aiohttp closes such a connection if the surplus arrives together with the answer; what arrives later, while the
    connection is idle, it would take as the answer to the next request: one picture would be stored as another.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is None or conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError  # the session tries again on another connection
        return await super().send(conn)


def is_delimited(response: aiohttp.ClientResponse) -> bool:
    """Whether a body says where it ends (RFC 9112 §6.3); if not, a truncated one looks complete."""
    return "Content-Length" in response.headers or "Transfer-Encoding" in response.headers


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies certificates against the authorities of the system, of certifi and in `ca_file`."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
