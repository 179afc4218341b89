"""Raw files made on the spot."""

import gzip
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.ingest.raw import RawFile

MakeRaw = Callable[..., RawFile]


@pytest.fixture
def raw_file(tmp_path: Path) -> MakeRaw:
    """`raw_file(data, name="x.json", packed=False)` writes the bytes and returns them as a raw file."""

    def make(data: bytes, name: str = "x.json", *, packed: bool = False) -> RawFile:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
        return RawFile(name, path, sha256(path.read_bytes()).hexdigest(), str(path))

    return make
