"""The guard against server-side request forgery: which addresses a catalogue's URL may reach.

A catalogue is untrusted text. A row that names `http://169.254.169.254/` or a host that resolves to 10.0.0.1 must not
make this machine read its own network. The check comes after DNS, on the very addresses that are then connected to, so
a name that changes its answer between check and connection (DNS rebinding) gains nothing.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""

Lookup = Callable[[str, int], list[tuple[socket.AddressFamily, str]]]
"""The addresses of a host and port; raises OSError if there are none."""


class AddressGuard:
    """Decides by address, except for hosts that the run allows by name (`host` or `host:port`)."""

    def __init__(self, allowed_hosts: Iterable[str] = ()) -> None:
        self._allowed = {host.strip().lower().rstrip(".") for host in allowed_hosts}

    def allows_host(self, host: str, port: int | None) -> bool:
        """Whether the run trusts this host whatever its address. IPv6 literals may have brackets."""
        name = host.strip("[]").lower().rstrip(".")
        names = {name, f"[{name}]"} if ":" in name else {name}
        return any(n in self._allowed or f"{n}:{port}" in self._allowed for n in names)

    def check_literal(self, host: str, port: int | None) -> None:
        """Check a host that is written as an address; names pass, and are checked once resolved.

        Raises:
            PictureError: the address is refused, or is written in a form ("127.1", "2130706433") that only some
                resolvers read as an address.
        """
        if not (":" in host or host.replace(".", "").isdigit()) or self.allows_host(host, port):
            return
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError as error:
            raise PictureError(ImageStatus.BLOCKED_ADDRESS, f"{host} is not a plain address") from error
        if not is_public(address):
            raise PictureError(ImageStatus.BLOCKED_ADDRESS, f"{host} is not a public address")

    def permitted(self, host: str, port: int, addresses: list[str]) -> list[str]:
        """The subset of a host's addresses that may be connected to.

        Raises:
            PictureError: there is none.
        """
        if self.allows_host(host, port):
            return addresses
        public = [address for address in addresses if is_public(ip_address(address.partition("%")[0]))]
        if not public:
            raise PictureError(ImageStatus.BLOCKED_ADDRESS, f"{host} resolves to {addresses[0]}, not a public address")
        return public


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """False for loopback, private, link-local, shared, reserved and multicast addresses, also if embedded in IPv6."""
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.teredo is not None:
            return False
        if embedded is not None:
            return is_public(embedded)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def system_lookup(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The operating system's answer, in its order of preference."""
    records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in records]


class GuardedResolver(AbstractResolver):
    """Resolves names for the transports, which connect to exactly the addresses that it returns."""

    def __init__(self, guard: AddressGuard, lookup: Lookup = system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses that may be connected to.

        Raises:
            OSError: the name has no address.
            PictureError: it has none that may be connected to.
        """
        addresses = await _in_daemon_thread(lambda: self._lookup(host, port))
        if not addresses:
            raise OSError(f"{host} has no address")
        permitted = set(self._guard.permitted(host, port, [address for _, address in addresses]))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in addresses
            if address in permitted and family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


async def _in_daemon_thread(work: Callable[[], Any]) -> Any:
    """Run a blocking call that cannot be interrupted (getaddrinfo), so that neither Ctrl-C nor exit waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: OSError | UnicodeError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def call() -> None:
        result, failure = None, None
        try:
            result = work()
        except (OSError, UnicodeError) as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=call, name="resolve", daemon=True).start()
    return await future
