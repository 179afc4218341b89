"""Items on a map, as one Parquet file that Apple's Embedding Atlas opens: vectors, places, words and thumbnails."""

import io
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.registry.export import dim_of, vectors_of
from pipeline.registry.hugging_face import Pictures
from pipeline.store import Store
from schemas.errors import UserError
from schemas.export import AtlasExported
from schemas.lineage import TableVersion
from schemas.training import trained_width

ROWS = 256
SIDE, QUALITY = 128, 76
"""Longest side of a thumbnail, pixels, and its WebP quality."""
NEIGHBORS = 15
"""How many neighbours of each item the map keeps together, as UMAP's default."""
SEED = 0
THUMBNAIL = pa.struct([("bytes", pa.binary())])
WORDS = ("title", "brand", "categories", "price", "interactions", "text")
"""Columns of `items` that the map shows."""


def run(
    *, store: Store, vectors: TableVersion, items: TableVersion, images: TableVersion | None, file: Path
) -> AtlasExported:
    """Write one row per item with a vector: its words, vector, x, y and thumbnail; whole or not at all.

    Memory: the vectors, twice; UMAP takes about a minute for 30,000 items on one core.

    Args:
        vectors: of `features/<name>` or `embeddings/items`, of which the trained part is taken.

    Raises:
        UserError: the table holds no vectors of items, `file` exists already, or UMAP is not installed.
    """
    if find_spec("umap") is None:
        raise UserError("to: 'atlas' needs a package that is not installed: pip install 'cm3-features[atlas]'.")
    if vectors.table == "embeddings/users":
        raise UserError(
            "to: 'atlas' shows items; expected features/<name> or embeddings/items, found embeddings/users."
        )
    if file.exists():
        raise UserError(f"{file} exists already. Name another, or remove it.")
    if file.suffix != ".parquet":
        raise UserError(f"{file}: expected a name that ends in .parquet.")
    ids, matrix = _matrix(store, vectors)
    rows = _rows(store, items, images, {name: row for row, name in enumerate(ids)}, matrix, project(matrix))
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex}")
    try:
        written = _write(draft, rows)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    options = "--x x --y y --text text --vector vector" + (" --image image" if images else "")
    return AtlasExported(file=str(file), rows=written, command=f"embedding-atlas {shlex.quote(str(file))} {options}")


def project(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places on a plane that keep neighbours by cosine together. Args: matrix (n, dim). Returns: (n, 2)."""
    if len(matrix) < 4:  # too few for UMAP's graph
        return np.pad(matrix, ((0, 0), (0, 2)))[:, :2]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from umap import UMAP

    # The same in every run: a seed, one core, and a start from principal components, because the eigenvectors that
    # UMAP starts from otherwise begin with a seed of SciPy's own where the graph falls apart (3 of 60 drawn cases).
    start = "pca" if np.ptp(matrix, axis=0).any() else "random"
    neighbors = min(NEIGHBORS, len(matrix) - 1)
    places = UMAP(n_neighbors=neighbors, metric="cosine", init=start, random_state=SEED, n_jobs=1)
    return np.asarray(places.fit_transform(matrix), np.float32)


def _matrix(store: Store, version: TableVersion) -> tuple[list[str], NDArray[np.float32]]:
    width = dim_of(store, version)
    dim = trained_width(version.lineage, width)
    ids: list[str] = []
    parts = [np.empty((0, dim), np.float32)]
    for batch in store.batches(version, rows=8192):
        names, part = vectors_of(batch, width)
        ids.extend(names)
        parts.append(part[:, :dim])
    return ids, np.concatenate(parts)


def _rows(
    store: Store,
    items: TableVersion,
    images: TableVersion | None,
    place: Mapping[str, int],
    matrix: NDArray[np.float32],
    places: NDArray[np.float32],
) -> Iterator[pa.Table]:
    pictures = Pictures(store, images) if images else None
    for batch in store.batches(items, ["item_id", *WORDS], ROWS):
        data = pictures.of(batch["item_id"].to_pylist()) if pictures else [None] * len(batch)
        row = np.array([place.get(name, -1) for name in batch["item_id"].to_pylist()])
        shown = np.flatnonzero(row >= 0)
        table = batch.take(shown)
        chosen = row[shown]
        table = table.append_column("x", pa.array(places[chosen, 0])).append_column("y", pa.array(places[chosen, 1]))
        flat = pa.array(matrix[chosen].reshape(-1))
        table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]))
        if pictures:
            cells = [(small := _thumbnail(data[n])) and {"bytes": small} for n in shown]
            table = table.append_column("image", pa.array(cells, THUMBNAIL))
        yield table


def _thumbnail(data: bytes | None) -> bytes | None:
    if data is None:
        return None
    try:
        picture = Image.open(io.BytesIO(data))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.convert("RGB").save(out, "WEBP", quality=QUALITY, method=2)
    except (UnidentifiedImageError, OSError, ValueError):
        return None
    return out.getvalue()


def _write(path: Path, batches: Iterator[pa.Table]) -> int:
    file: pq.ParquetWriter | None = None
    rows = 0
    try:
        for batch in batches:
            file = file or pq.ParquetWriter(path, batch.schema, compression="zstd")
            file.write_table(batch)
            rows += len(batch)
    finally:
        if file is not None:
            file.close()
    if not rows:
        raise UserError("to: 'atlas' found no item with a vector.")
    return rows
