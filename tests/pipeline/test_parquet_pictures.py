"""Pictures out of a column of a Parquet file, whatever the order in which they are asked for."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from pipeline.parquet_pictures import BLOCKS, ROWS, ParquetPictures, address

COUNT = 500


def content(row: int) -> bytes:
    return b"\xff" + row.to_bytes(4, "big")


@pytest.fixture(params=["parquet", "arrow", "feather"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """500 rows in groups of 150: bytes, structs as Hugging Face writes them, lists of these, a struct in a struct."""
    images = [{"bytes": content(row), "path": None} for row in range(COUNT)]
    columns = {
        "plain": [content(row) if row % 7 else None for row in range(COUNT)],
        "image": images,
        "all": [[image, image | {"bytes": b"\xfe"}] for image in images],
        "media": [{"main": {"bytes": content(row)}} for row in range(COUNT)],
    }
    path = tmp_path / ("x.parquet" if request.param == "parquet" else "x.arrow")
    if request.param == "parquet":
        pq.write_table(pa.table(columns), path, row_group_size=150)
        return path
    if request.param == "feather":  # with an index of the batches, and compressed
        feather.write_feather(pa.table(columns), path, chunksize=150)
        return path
    with pa.ipc.new_stream(path, pa.table(columns).schema) as stream:
        stream.write_table(pa.table(columns), max_chunksize=150)
    return path


@pytest.mark.parametrize(
    "order", [sorted, lambda rows: sorted(rows, reverse=True), lambda rows: random.Random(1).sample(rows, 60)]
)
def test_every_row_has_its_picture_in_any_order(file: Path, order: Callable[[list[int]], list[int]]) -> None:
    pictures = ParquetPictures()
    for row in order(list(range(COUNT))):
        assert pictures.read(file, urlsplit(address("file:///x", "image", row)).fragment) == content(row)


@pytest.mark.parametrize(
    ("column", "place", "expected"),
    [("plain", None, content(8)), ("media.main", None, content(8)), ("all", 0, content(8)), ("all", 1, b"\xfe")],
)
def test_bytes_lists_and_paths_are_read(file: Path, column: str, place: int | None, expected: bytes) -> None:
    fragment = urlsplit(address("file:///x", column, 8, place)).fragment
    assert ParquetPictures().read(file, fragment) == expected


@pytest.mark.parametrize(
    "fragment",
    [
        "column=plain&row=7",
        "column=plain&row=500",
        "column=none&row=1",
        "row=1",
        "x",
        "column=all&row=1&place=2",
        "column=plain&row=-1",
    ],
)
def test_where_there_is_no_picture_it_is_said(file: Path, fragment: str) -> None:
    with pytest.raises(LookupError):
        ParquetPictures().read(file, fragment)


@pytest.mark.parametrize("file", ["parquet"], indirect=True)
def test_in_the_rows_order_a_column_is_gone_through_once_and_few_rows_stay_in_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *args, **kwargs: begun.append(kwargs) or iter_batches(*args, **kwargs)
    )
    pictures = ParquetPictures()
    rows = list(range(COUNT))
    for start in range(0, COUNT, 32):  # as requests that overtake each other
        random.Random(start).shuffle(rows[start : start + 32])
    for row in rows:
        pictures.read(file, f"column=image&row={row}")
    assert [kwargs["row_groups"] for kwargs in begun] == [[0], [1], [2], [3]]
    (column,) = pictures._columns.values()
    assert sum(map(len, column._blocks.values())) <= ROWS * BLOCKS


@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_of_a_compressed_arrow_file_only_the_last_batches_of_the_column_are_in_memory(
    tmp_path: Path, writer: Callable[..., Any]
) -> None:
    size, rows = 1 << 16, 640
    table = pa.table({"image": [b"\xff" + bytes([row % 251]) * size for row in range(rows)], "row": range(rows)})
    path = tmp_path / "x.arrow"
    with writer(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table, max_chunksize=32)
    del table
    pictures, before, most = ParquetPictures(), pa.total_allocated_bytes(), 0
    for row in range(rows):
        assert pictures.read(path, f"column=image&row={max(0, row - row % 3 * 20)}")
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 6 * 32 * size


def test_a_damaged_arrow_file_is_refused_before_its_offsets_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    column = pa.array([b"\xff" * 10] * 10)
    with pa.ipc.new_stream(path, pa.schema({"image": column.type})) as stream:
        stream.write_table(pa.table({"image": column}))
    offset = (90).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(offset, (2_000_000_000).to_bytes(4, "little"), 1))
    with pytest.raises(pa.ArrowInvalid):
        ParquetPictures().read(path, "column=image&row=9")
