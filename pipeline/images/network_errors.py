"""Exceptions of the network as statuses and reasons.

A reason is the same in every run, without ports and counters, and quotes nothing that a server sent.
"""

import socket
import ssl
from typing import TypeVar

import aiohttp

from pipeline.addresses import AddressRefused
from pipeline.images.outcome import PictureError
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus

E = TypeVar("E", bound=BaseException)

NETWORK = (
    TimeoutError,
    aiohttp.ClientError,
    AddressRefused,
    OSError,
    ValueError,
)
"""What a fetch may raise because of the network or the server."""


def explain(error: BaseException, config: ImagesConfig) -> PictureError:
    """The status and the reason for an exception that is one of `NETWORK`."""
    if isinstance(error, AddressRefused):
        return PictureError(ImageStatus.BLOCKED_ADDRESS, str(error))
    tls = _cause(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return PictureError(ImageStatus.TLS_ERROR, f"certificate refused: {tls.verify_message}")
    if tls is not None or isinstance(error, aiohttp.ClientSSLError):
        return PictureError(ImageStatus.TLS_ERROR, "the TLS handshake failed", transient=True)
    if _cause(error, socket.gaierror) is not None or isinstance(error, aiohttp.ClientConnectorDNSError):
        return PictureError(ImageStatus.DNS_ERROR, "the host's name has no address", transient=True)
    if isinstance(error, TimeoutError):
        return PictureError(ImageStatus.TIMEOUT, _which_timeout(error, config), transient=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return PictureError(ImageStatus.CONNECT_ERROR, "the answer broke off before its end", transient=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return PictureError(ImageStatus.HTTP_ERROR, "the answer is not HTTP")
    if isinstance(error, ValueError):  # aiohttp.InvalidURL as well
        return PictureError(ImageStatus.INVALID_URL, "not a URL that can be requested")
    system = _cause(error, OSError)
    reason = f": {system.strerror}" if system is not None and system.strerror else ""
    return PictureError(ImageStatus.CONNECT_ERROR, f"the connection failed{reason}", transient=True)


def _which_timeout(error: BaseException, config: ImagesConfig) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {config.connect_timeout:g} s"
    if isinstance(error, aiohttp.ServerTimeoutError):
        return f"nothing received for {config.read_timeout:g} s"
    return f"not finished within {config.total_timeout:g} s"


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first exception of a kind in the chain of causes; aiohttp's wrappers are skipped, as they say less."""
    while error is not None:
        if isinstance(error, kind) and not isinstance(error, aiohttp.ClientError):
            return error
        error = error.__cause__ or error.__context__
    return None
