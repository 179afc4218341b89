"""What every HTTP client here needs: this machine's logins by host, and validators that can be sent back."""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import UserError

Login = tuple[str, str]
"""User and password."""


def logins() -> Mapping[str, Login]:
    """Host → login, from the netrc file that `NETRC` names, else `~/.netrc`; empty if there is no file.

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


def usable_validator(value: str | None) -> str | None:
    """An ETag or Last-Modified if it is printable ASCII, so that it can be kept and sent back; otherwise None.

    A server may send any bytes; the libraries decode them to surrogates or Latin-1, and refuse to send those.
    """
    return value if value and value.isascii() and value.isprintable() else None
