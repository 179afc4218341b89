"""The machine's own logins, by host: its netrc file, as curl and requests read it. No table or message holds them."""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import UserError

Login = tuple[str, str]
"""User and password."""


def logins() -> Mapping[str, Login]:
    """Host → login, from the file that `NETRC` names, else `~/.netrc`; empty where there is none.

    Its `default` entry is left out: a catalogue may name any host, and none but those named here is trusted.

    Raises:
        UserError: the file cannot be read.
    """
    named = os.environ.get("NETRC")
    path = Path(os.path.expanduser(named or "~/.netrc"))  # noqa: PTH111 - pathlib's fails for a user without a home
    if not named and not path.exists():
        return {}
    try:
        found = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        # netrc's own message may quote a password
        where = f"line {error.lineno} is not" if isinstance(error, netrc.NetrcParseError) else "it cannot be read"
        raise UserError(
            f"{path}: expected a netrc file (`machine HOST login USER password PASSWORD`), but {where}. Mend it, or "
            "name another as NETRC."
        ) from None
    return {host: (user, password) for host, (user, _, password) in found.items() if host != "default"}


def usable_validator(value: str | None) -> str | None:
    """An ETag or Last-Modified if it is printable ASCII, so that it can be kept and sent back; else None.

    A server may put any bytes there; the libraries decode them to surrogates or Latin-1, and refuse to send them.
    """
    return value if value and value.isascii() and value.isprintable() else None
