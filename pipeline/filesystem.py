"""Local folders and object stores through fsspec."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from schemas.errors import UserError


def open_filesystem(uri: str) -> tuple[Any, str]:
    """fsspec filesystem and path of a folder or URL.

    Raises:
        UserError: the protocol is unknown or its driver is not installed.
    """
    try:
        # Other processes publish too: a cached listing would hide what they have published since.
        fs, path = url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"Cannot open the store {uri!r}: {error}. Use a folder, or an s3:// URL where the "
            "extra s3 is installed: pip install 'cm3-features[s3]'."
        ) from error
    return fs, str(path)


def write_atomically(fs: Any, path: str, data: bytes) -> None:
    """Write `data` so that a reader sees the old bytes or the new ones. An object store's PUT is atomic by itself."""
    if not isinstance(fs, fsspec.implementations.local.LocalFileSystem):
        fs.pipe_file(path, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def file_sha256(fs: Any, path: str) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    sha = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
