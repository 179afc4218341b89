"""Vectors of a published table as `.npy`, with their ids and a FAISS index, for readers that do not want Parquet."""

import shutil
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import Store
from schemas.errors import UserError
from schemas.export import ExportConfig, Exported
from schemas.lineage import TableVersion

BATCH_ROWS = 8192
INDEX = {"flat": "index.faiss", "hnsw": "index.faiss", "lance": "vectors.lance"}


def run(*, store: Store, version: TableVersion, folder: Path, config: ExportConfig) -> Exported:
    """Write `vectors.npy`, `ids.npy` and `index.faiss`, or `vectors.lance`, into `folder`, all or none.

    Args:
        version: of `features/<name>`, `embeddings/items` or `embeddings/users`. Rows without a vector are left out.

    Raises:
        UserError: the table holds no vectors, `folder` exists already, or Lance is not installed.
    """
    if config.index == "lance" and find_spec("lance") is None:
        raise UserError("index: 'lance' needs a package that is not installed: pip install 'cm3-features[lance]'.")
    dim = _dim(store, version)
    if folder.exists():
        raise UserError(f"{folder} exists already; expected a new folder. Name another, or remove it.")
    working = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    working.mkdir(parents=True)
    try:
        rows = _write(store, version, dim, working, config)
        working.replace(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return Exported(
        vectors=str(folder / "vectors.npy"),
        ids=str(folder / "ids.npy"),
        index=str(folder / INDEX[config.index]) if config.index in INDEX else "",
        rows=rows,
        dim=dim,
        missing=version.rows - rows,
    )


def _write(store: Store, version: TableVersion, dim: int, working: Path, config: ExportConfig) -> int:
    """Write the files and return the number of rows. Memory: one batch, the ids, and the index if there is one."""
    ids: list[str] = []
    index = _index(dim, config)
    with (working / "vectors.raw").open("wb") as raw:
        for batch in store.batches(version, rows=BATCH_ROWS):
            names, vectors = _vectors(batch, dim)
            if config.normalize:
                length = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
            raw.write(vectors.tobytes())
            ids.extend(names)
            if index is not None and len(vectors):
                index.add(vectors)
    _as_npy(working / "vectors.raw", working / "vectors.npy", (len(ids), dim))
    np.save(working / "ids.npy", np.array(ids, dtype=str))
    if index is not None:
        faiss.write_index(index, str(working / INDEX[config.index]))
    if config.index == "lance":
        _as_lance(working, ids, dim)
    return len(ids)


def _as_lance(working: Path, ids: list[str], dim: int) -> None:
    """Write the files just written as a Lance data set, batch by batch."""
    import lance

    vectors = np.load(working / "vectors.npy", mmap_mode="r")
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("vector", pa.list_(pa.float32(), dim))])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(ids), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            flat = pa.array(vectors[part].reshape(-1))
            yield pa.record_batch([pa.array(ids[part]), pa.FixedSizeListArray.from_arrays(flat, dim)], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, str(working / INDEX["lance"]))


def _as_npy(raw: Path, target: Path, shape: tuple[int, int]) -> None:
    """Put NumPy's header before the rows; it says how many rows follow, so it can only be written now."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with target.open("wb") as out, raw.open("rb") as rows:
        np.lib.format.write_array_header_1_0(out, header)
        shutil.copyfileobj(rows, out)
    raw.unlink()


def _index(dim: int, config: ExportConfig) -> "faiss.Index | None":
    if config.index in ("none", "lance"):
        return None
    if config.index == "flat":
        return faiss.IndexFlatIP(dim)
    return faiss.IndexHNSWFlat(dim, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)


def _vectors(batch: pa.Table, dim: int) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and vectors of the rows that have one."""
    present = batch.filter(batch["embedding"].is_valid()).combine_chunks()
    flat = present["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return present.column(0).to_pylist(), np.ascontiguousarray(flat.reshape(-1, dim), dtype=np.float32)


def _dim(store: Store, version: TableVersion) -> int:
    for batch in store.batches(version, rows=1):
        if "embedding" in batch.column_names:
            return int(batch.schema.field("embedding").type.list_size)
        break
    raise UserError(
        f"{version.dataset}/{version.table} holds no vectors to export; expected features/<name>, embeddings/items or "
        "embeddings/users, with at least one row."
    )
