"""Raw files and a small catalogue made on the spot."""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.raw import RawFile
from schemas.sources import CatalogueSource
from tests.support.ingest import SECOND

MakeRaw = Callable[..., RawFile]


@pytest.fixture
def raw_file(tmp_path: Path) -> MakeRaw:
    """`raw_file(data, name="x.json", packed=False)` writes the bytes and returns them as a raw file."""

    def make(data: bytes, name: str = "x.json", *, packed: bool = False) -> RawFile:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
        return RawFile(name, path, sha256(path.read_bytes()).hexdigest(), str(path))

    return make


Shop = Callable[..., CatalogueSource]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """`shop(items, rows)` writes a small catalogue: 6 users who each chose 6 items, and what is added."""

    def write(
        more_items: Sequence[Any] = (),
        more_rows: Sequence[list[Any]] = (),
        *,
        header: list[str] | None = None,
        **source: Any,
    ) -> CatalogueSource:
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        items = [{"item_id": f"i{n}", "title": f"Thing {n}", "categories": ["A"]} for n in range(6)]
        lines = [line if isinstance(line, str) else json.dumps(line) for line in (*items, *more_items)]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
        rows = [[f"u{u}", f"i{i}", 5, SECOND + 10 * u + i] for u in range(6) for i in range(6)]
        with (folder / "interactions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header or ["user_id", "item_id", "rating", "timestamp"], *rows, *more_rows])
        return CatalogueSource(raw=str(folder), **source)

    return write
