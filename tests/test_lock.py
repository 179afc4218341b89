"""The lock: every package at one version, with the hash of every file that may be installed, and no address."""

import re
from pathlib import Path

LOCK = (Path(__file__).parent.parent / "requirements.txt").read_text()
PACKAGES = LOCK.replace("\\\n", "").splitlines()


def test_every_package_has_one_version_and_hashes() -> None:
    assert len(PACKAGES) > 250
    for line in PACKAGES:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ]+ ", line), line
        assert re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", line), line


def test_the_lock_names_no_address() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^-", LOCK, re.MULTILINE)  # no option such as --index-url


def test_what_is_built_with_the_lock_asks_for_the_hashes() -> None:
    root = Path(__file__).parent.parent
    for name in ("Makefile", "Dockerfile"):
        (line,) = [line for line in (root / name).read_text().splitlines() if "-r requirements.txt" in line]
        assert "--require-hashes" in line, name
