"""Vectors of a published table as `.npy`, with their ids and a FAISS index, for readers that do not want Parquet."""

import shutil
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.machine import threads
from pipeline.store import Store
from schemas.errors import UserError
from schemas.export import ExportConfig, Exported
from schemas.lineage import TableVersion
from schemas.training import trained_width

BATCH_ROWS = 8192
EMBEDDINGS = "embeddings/"
"""Beginning of the names of tables whose vectors, as they are, give the score."""
SAMPLE, NEIGHBORS = 256, 10
"""Queries that an approximate index is measured by, and how many of the best they ask for."""
RECALL = 0.99
WIDTHS = (32, 64, 128, 256, 512, 1024)
"""Numbers of candidates that a search of the HNSW index may keep (efSearch)."""
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
    width = dim_of(store, version)
    dim = trained_width(version.lineage, width) if config.part == "item" else width
    if folder.exists():
        raise UserError(f"{folder} exists already; expected a new folder. Name another, or remove it.")
    working = folder.with_name(f".{uuid.uuid4().hex}")
    working.mkdir(parents=True)
    try:
        rows, recall = _write(store, version, width, dim, working, config)
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
        recall=recall,
    )


def _write(
    store: Store, version: TableVersion, width: int, dim: int, working: Path, config: ExportConfig
) -> tuple[int, float | None]:
    """Write the files; returns the number of rows, and the recall of an approximate index.

    Memory: one batch, the ids, and the index if there is one.
    """
    ids: list[str] = []
    keeps_score = config.part == "score" and version.table.startswith(EMBEDDINGS)
    index = _index(dim, config)
    faiss.omp_set_num_threads(threads())
    with (working / "vectors.raw").open("wb") as raw:
        for batch in store.batches(version, rows=BATCH_ROWS):
            names, vectors = vectors_of(batch, width)
            vectors = np.ascontiguousarray(vectors[:, :dim])
            if not keeps_score:
                length = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
            raw.write(vectors.tobytes())
            ids.extend(names)
            if index is not None and len(vectors):
                index.add(vectors)
    _as_npy(working / "vectors.raw", working / "vectors.npy", (len(ids), dim))
    np.save(working / "ids.npy", np.array(ids, dtype=str))
    recall = None
    if config.index == "hnsw" and index is not None and ids:
        queries = _users(store, version, width) if keeps_score else None
        recall = _search_wide_enough(index, np.load(working / "vectors.npy", mmap_mode="r"), queries)
    if index is not None:
        faiss.write_index(index, str(working / INDEX[config.index]))
    if config.index == "lance":
        _as_lance(working, ids, dim)
    return len(ids), recall


def _users(store: Store, version: TableVersion, width: int) -> NDArray[np.float32] | None:
    """A sample of the users' vectors of the same training, which is what searches these items; None without any."""
    if version.table != "embeddings/items" or "embeddings/users" not in store.tables(version.dataset):
        return None
    made_by = ("cm3.config", "cm3.inputs")
    for users in reversed(store.versions(version.dataset, "embeddings/users")):
        if all(users.lineage.get(name) == version.lineage.get(name) for name in made_by) and users.rows:
            batch = next(iter(store.batches(users, rows=SAMPLE)))
            vectors = vectors_of(batch, dim_of(store, users))[1]
            return vectors if vectors.shape[1] == width else None
    return None


def _search_wide_enough(
    index: "faiss.Index", vectors: NDArray[np.float32], queries: NDArray[np.float32] | None
) -> float:
    """Widen the index's search, which is kept in its file, until it finds `RECALL` of a sample; returns its recall.

    Args:
        queries: what will search the index; None: the vectors themselves.
    """
    if queries is None:
        queries = vectors[:: -(-len(vectors) // SAMPLE)]
    queries, k = np.ascontiguousarray(queries), min(NEIGHBORS, len(vectors))
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(vectors), BATCH_ROWS):
        scores = np.hstack([best, queries @ vectors[start : start + BATCH_ROWS].T])
        best = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]
    least = best.min(axis=1, keepdims=True)
    recall = 0.0
    graph = cast(faiss.IndexHNSWFlat, faiss.downcast_index(index)).hnsw
    for width in WIDTHS:
        graph.efSearch = width
        scores, _ = index.search(queries, k)
        # Equal vectors give equal scores, up to rounding: any of them is right.
        recall = float((scores >= least - 1e-5 * np.abs(least) - 1e-6).mean())
        if recall >= RECALL:
            break
    return recall


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


def vectors_of(batch: pa.Table, dim: int) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and vectors of the rows that have one."""
    present = batch.filter(batch["embedding"].is_valid()).combine_chunks()
    flat = present["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return present.column(0).to_pylist(), np.ascontiguousarray(flat.reshape(-1, dim), dtype=np.float32)


def dim_of(store: Store, version: TableVersion) -> int:
    """Numbers in each vector.

    Raises:
        UserError: the table holds no vectors.
    """
    for batch in store.batches(version, rows=1):
        if "embedding" in batch.column_names:
            return int(batch.schema.field("embedding").type.list_size)
        break
    raise UserError(
        f"{version.dataset}/{version.table} holds no vectors to export; expected features/<name>, embeddings/items or "
        "embeddings/users, with at least one row."
    )
