"""The machine's logins, and the guarded client for what is not a picture."""

import socket
from pathlib import Path

import httpx
import pytest

from pipeline.addresses import AddressRefused
from pipeline.http import guarded_client, login_at, logins
from schemas.errors import UserError


def test_a_broken_file_of_logins_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but it cannot be read"):
        logins()
    (tmp_path / "netrc").write_text("machine a login b password c\nsecret")
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but line 2 is not\. ") as refused:
        logins()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("scheme", "host", "port", "user"),
    [
        ("https", "shop.example", 443, "a"),
        ("https", "shop.example", None, "a"),
        ("http", "shop.example", 80, None),
        ("https", "shop.example", 8443, None),
        ("http", "shop.example", 8080, "b"),
        ("http", "::1", 9000, "c"),
        ("https", "evil.example", 443, None),
        ("https", "default", 443, None),
    ],
)
def test_a_login_is_for_https_or_for_the_port_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, host: str, port: int | None, user: str | None
) -> None:
    places = {"machine shop.example": "a", "machine shop.example:8080": "b", "machine [::1]:9000": "c", "default": "d"}
    (tmp_path / "netrc").write_text("\n".join(f"{place} login {name} password x" for place, name in places.items()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    login = login_at(logins(), scheme, host, port)
    assert (login and login[0]) == user


def test_a_name_that_resolves_to_this_network_is_refused_except_the_operators_own() -> None:
    def lookup(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        return [(socket.AF_INET, "127.0.0.1")]

    with guarded_client("http://own.example:1/x", lookup=lookup) as client:
        with pytest.raises(httpx.ConnectError):  # asked, but nothing listens there
            client.get("http://own.example:1/x")
        for other in ("http://own.example:2/x", "http://other.example:1/x", "http://169.254.169.254/", "http://127.1/"):
            with pytest.raises(AddressRefused):
                client.get(other)
