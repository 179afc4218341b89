"""What every HTTP client here needs: this machine's logins, validators that can be sent back, and for files that are
not pictures a client under the same guard (pictures have `images.session`)."""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipeline.addresses import AddressGuard, Lookup, host_and_port, system_lookup
from schemas.errors import UserError

_PORTS = {"http": 80, "https": 443}
Login = tuple[str, str]
"""User and password."""


def logins() -> Mapping[str, Login]:
    """`HOST` or `HOST:PORT` → login, from the netrc file that `NETRC` names, else `~/.netrc`; empty if there is none.

    Its `default` entry is ignored: a catalogue may name any host, and only the hosts named in the file are trusted. No
    table or message contains a login.

    Raises:
        UserError: the file cannot be read.
    """
    named = os.environ.get("NETRC")
    path = Path(os.path.expanduser(named or "~/.netrc"))  # noqa: PTH111 - pathlib's fails for a user without a home
    if not named and not path.exists():
        return {}
    try:
        entries = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        # netrc's own message may quote a password.
        where = f"line {error.lineno} is not" if isinstance(error, netrc.NetrcParseError) else "it cannot be read"
        raise UserError(
            f"{path}: expected a netrc file (`machine HOST login USER password PASSWORD`), but {where}. Mend it, or "
            "name another as NETRC."
        ) from None
    return {host: (user, password) for host, (user, _, password) in entries.items() if host != "default"}


def login_at(logins: Mapping[str, Login], scheme: str, host: str | None, port: int | None) -> Login | None:
    """This machine's login for a place: `machine HOST` is for https on its own port, `machine HOST:PORT` for that port.

    So a login is sent unencrypted, or to another service of the host, only where the file says so.
    """
    name = f"[{host}]" if host and ":" in host else host
    if (login := logins.get(f"{name}:{port or _PORTS.get(scheme)}")) is not None:
        return login
    return logins.get(host or "") if scheme == "https" and port in (None, 443) else None


def usable_validator(value: str | None) -> str | None:
    """An ETag or Last-Modified if it is printable ASCII, so that it can be kept and sent back; otherwise None.

    A server may send any bytes; the libraries decode them to surrogates or Latin-1, and refuse to send those.
    """
    return value if value and value.isascii() and value.isprintable() else None


def guarded_client(url: str, *, lookup: Lookup = system_lookup, **options: Any) -> httpx.Client:
    """A client for one place that the operator named: it may have any address, and what it redirects to may not.

    Behind a proxy (`HTTPS_PROXY`) the proxy resolves names, so there only redirects to written addresses are checked.

    Raises:
        AddressRefused: by its requests, for an address that is not public.
    """
    guard = AddressGuard(filter(None, [host_and_port(url)]))

    def check(request: httpx.Request) -> None:
        guard.check_literal(*_place(request.url))

    parts = urlsplit(url)  # httpx itself authorizes a URL that names a user
    login = None if parts.username else login_at(logins(), parts.scheme, parts.hostname, parts.port)
    return httpx.Client(
        transport=_GuardedTransport(guard, lookup), event_hooks={"request": [check]}, auth=login, **options
    )


class _GuardedTransport(httpx.BaseTransport):
    """Resolves a name, and connects to one of the addresses that the guard permits and to no other."""

    def __init__(self, guard: AddressGuard, lookup: Lookup) -> None:
        self._guard, self._lookup = guard, lookup
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host, port = _place(request.url)
        try:
            addresses = [address for _, address in self._lookup(host, port)]
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        permitted = list(dict.fromkeys(self._guard.permitted(host, port, addresses)))
        for address in permitted[:-1]:
            try:
                return self._send(request, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return self._send(request, permitted[-1])

    def _send(self, request: httpx.Request, address: str) -> httpx.Response:
        """To an address; the Host header and the certificate stay those of the name."""
        at_address = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": _place(request.url)[0]},
        )
        return self._transport.handle_request(at_address)

    def close(self) -> None:
        self._transport.close()


def _place(url: httpx.URL) -> tuple[str, int]:
    """Host, as names are looked up, and port."""
    return url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0)
