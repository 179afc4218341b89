"""The machine's logins, read from its netrc file."""

from pathlib import Path

import pytest

from pipeline.http import logins
from schemas.errors import UserError


def test_a_broken_file_of_logins_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but it cannot be read"):
        logins()
    (tmp_path / "netrc").write_text("machine a login b password c\nsecret")
    with pytest.raises(UserError, match=r"netrc: expected a netrc file .* but line 2 is not\. ") as refused:
        logins()
    assert "secret" not in str(refused.value)
