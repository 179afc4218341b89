"""The guard against server-side request forgery: which addresses a catalogue's URL, or a redirect, may reach.

A catalogue is untrusted text, and so is where a server redirects to. A row that names `http://169.254.169.254/` or a
host that resolves to 10.0.0.1 must not make this machine read its own network. The check comes after DNS, on the very
addresses that are then connected to, so a name that changes its answer between check and connection (DNS rebinding)
gains nothing.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""

Lookup = Callable[[str, int], list[tuple[socket.AddressFamily, str]]]
"""The addresses of a host and port; raises OSError if there are none."""


_METADATA = frozenset(
    ip_address(address)
    for address in (
        "168.63.129.16",  # Azure
        "169.254.169.254",
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
"""Where clouds tell a machine its credentials; the first is a public address."""
_PORTS = {"http": 80, "https": 443}


class AddressRefused(Exception):  # noqa: N818 - says what happened to the address
    """A host or address that this machine does not connect to; the message says which and why."""


class AddressGuard:
    """Decides by address, except for hosts that the operator allows by name.

    Args:
        allowed_hosts: `host:port`, or `host` for all its ports.
    """

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
            AddressRefused: the address is refused, or is written in a form ("127.1", "2130706433") that only some
                resolvers read as an address.
        """
        if not (":" in host or host.replace(".", "").isdigit()) or self.allows_host(host, port):
            return
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError as error:
            raise AddressRefused(f"{host} is not a plain address") from error
        if not is_public(address):
            raise AddressRefused(f"{host} is not a public address")

    def permitted(self, host: str, port: int, addresses: list[str]) -> list[str]:
        """The subset of a host's addresses that may be connected to.

        Raises:
            AddressRefused: there is none.
        """
        if self.allows_host(host, port):
            return addresses
        public = [address for address in addresses if is_public(ip_address(address.partition("%")[0]))]
        if not public:
            raise AddressRefused(f"{host} resolves to {addresses[0]}, not a public address")
        return public


def host_and_port(url: str) -> str | None:
    """The `host:port` that an http or https URL names, its scheme's own port included, and without a login.

    None if it names none. IPv6 addresses have brackets.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not host or port is None:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """False for loopback, private, link-local, shared, reserved and multicast addresses and for those where clouds keep
    credentials, also if embedded in IPv6."""
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
    if address in _METADATA:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def system_lookup(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The operating system's answer, in its order of preference."""
    records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in records]
