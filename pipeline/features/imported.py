"""Stage: vectors that somebody else made, checked, aligned by id and published as a feature beside our own."""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.features.columns import fixed_width_from
from pipeline.progress import track
from pipeline.published import Published
from pipeline.store import Store
from schemas.encoders import VectorsConfig
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import features

logger = logging.getLogger(__name__)

STAGE_VERSION = 2
SHARD = 1024
LONGEST = 1e18
"""Longest vector, unless vectors are scaled to length 1: products of longer ones overflow float32."""
AMAZON_2014 = np.dtype([("id", "S10"), ("vector", "<f4", (4096,))])


@dataclass(frozen=True)
class ForeignVectors:
    """Vectors by row, read on demand if the format allows it, and the row of each id."""

    rows: Any
    row_of: dict[str, int]
    dim: int

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The vectors of these rows, (len(indices), dim), float32."""
        return np.asarray(self.rows[list(indices)], dtype=np.float32).reshape(-1, self.dim)


def run(*, store: Store, items: TableVersion, name: str, config: VectorsConfig) -> Published:
    """Publish `features/<name>`, one row per item in the order of `items`; null if the file has no vector for it.

    A zero vector has no direction and counts as none. `content_hash` is the SHA-256 of the vector as imported.

    Raises:
        UserError: the file is missing, cut short or of another format; ids and vectors differ in number; an id comes
            twice; a vector of this catalogue holds NaN or infinity; or the file has no id of the catalogue.
    """
    lineage = _lineage(items, name, config)
    if (version := store.find(lineage)) is not None:
        logger.info("features/%s: version %s is already published", name, version.version)
        return Published({version.table: version})
    foreign = read(config)
    missing = 0
    with (
        store.writer(features(foreign.dim), lineage) as writer,
        track(f"features/{name}", total=items.rows) as advance,
    ):
        for table in store.batches(items, ["item_id"], rows=SHARD):
            aligned = _aligned(table["item_id"].to_pylist(), foreign, config)
            writer.write(aligned)
            missing += aligned["embedding"].null_count
            advance(len(aligned))
        if missing == items.rows and missing:
            raise UserError(
                f"{config.path} has vectors for {len(foreign.row_of):,} ids, but for none of the {items.rows:,} items. "
                f"Its first ids are {', '.join(list(foreign.row_of)[:3])}: check that both use the same ids."
            )
    logger.info("features/%s: %d of %d items have a vector", name, items.rows - missing, items.rows)
    return Published({writer.version.table: writer.version}, {"imported": items.rows - missing, "missing": missing})


def _lineage(items: TableVersion, name: str, config: VectorsConfig) -> Lineage:
    settings = config.model_dump(exclude={"path", "ids"})
    for field in ("path", "ids"):
        if file := getattr(config, field):
            settings[field] = _sha256(Path(file))
    return Lineage(
        dataset=items.dataset,
        table=f"features/{name}",
        stage="vectors",
        stage_version=STAGE_VERSION,
        config=settings,
        inputs={items.table: items.version},
        encoder=f"imported:{Path(config.path).name}",
        revision=settings["path"][:16],
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Vectors to import: cannot read {path} ({error.strerror}). Check the path.") from error


def _aligned(item_ids: list[str], foreign: ForeignVectors, config: VectorsConfig) -> pa.Table:
    present = np.array([item_id in foreign.row_of for item_id in item_ids], bool)
    vectors = np.zeros((len(item_ids), foreign.dim), np.float32)
    vectors[present] = foreign.take([foreign.row_of[i] for i in item_ids if i in foreign.row_of])
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        bad = [item_ids[i] for i in np.flatnonzero(~finite)]
        raise UserError(
            f"{config.path} has NaN or infinity for {', '.join(bad[:3])}{' and more' if len(bad) > 3 else ''}. Leave "
            "those items out of the file: an item without a vector is a null."
        )
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)  # the square of 1e25 overflows float32
    if not config.normalize and (long := np.flatnonzero(lengths > LONGEST)).size:
        raise UserError(
            f"{config.path}: the vector of {item_ids[long[0]]} has length {lengths[long[0]]:.3g}; its square is no "
            "float32, in which models compute. Import with normalize, or scale the vectors."
        )
    present &= lengths > 0
    hashes = [
        hashlib.sha256(row.tobytes()).hexdigest() if is_present else None
        for row, is_present in zip(vectors, present, strict=True)
    ]
    if config.normalize:
        vectors[present] = vectors[present] / lengths[present, None]
    embedding = fixed_width_from(vectors, missing=~present)
    columns = [pa.array(item_ids), pa.array(hashes, pa.string()), embedding, pa.nulls(len(item_ids), pa.string())]
    return pa.table(columns, schema=features(foreign.dim))


def read(config: VectorsConfig) -> ForeignVectors:
    """Open the file and index its ids; arrays and binary records stay on disk.

    Raises:
        UserError: the file is missing, cut short or of another format; ids and vectors differ in number; or an id comes
            twice.
    """
    reader = {"npy": _read_npy, "parquet": _read_parquet, "amazon-2014": _read_amazon}[config.format]
    try:
        ids, rows, dim = reader(config)
    except OSError as error:
        raise UserError(f"Vectors to import: cannot read {config.path} ({error}). Check the path.") from error
    row_of: dict[str, int] = {}
    for item_id, row in ids:
        if row_of.setdefault(item_id, row) != row:
            raise UserError(f"{config.path}: id {item_id!r} comes twice. Keep one vector for each item.")
    return ForeignVectors(rows, row_of, dim)


def _read_npy(config: VectorsConfig) -> tuple[Iterator[tuple[str, int]], Any, int]:
    try:
        array = np.load(config.path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise UserError(f"{config.path} is not a .npy array of numbers ({error}). Save it with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise UserError(
            f"{config.path} holds several arrays ({', '.join(array)}). Save the one wanted with numpy.save."
        )
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{config.path}: expected an array (items, width) of numbers, found {array.shape} {array.dtype}."
        )
    ids = list(_read_ids(Path(config.ids)))
    rows = {row for _, row in ids}
    if len(ids) != len(array) or rows != set(range(len(array))):
        raise UserError(
            f"{config.path} has {len(array):,} vectors but {config.ids} names {len(ids):,} ids for {len(rows):,} rows. "
            "Each row needs one id; check that the two files belong together."
        )
    return iter(ids), array, array.shape[1]


_NUMBERED = re.compile(r"(.*)[\t,]\s*([0-9]+)\s*")


def _read_ids(path: Path) -> Iterator[tuple[str, int]]:
    """(id, row) of each line.

    If every line except a header ends with a tab or comma and a number, that is the row. Otherwise each whole line is
    an id, and its row is the line's index.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Save the list of ids as UTF-8.") from error
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    body = matches[1:] if matches and matches[0] is None else matches
    if body and all(body):
        yield from ((match[1].strip(), int(match[2])) for match in body if match)
        return
    for number, line in enumerate(lines):
        if "\t" in line:
            raise UserError(
                f"{path}, line {number + 1}: expected an id alone, or in every line an id, a tab or comma, and a row "
                f"number; found {line!r}."
            )
        yield line.strip(), number


def _read_parquet(config: VectorsConfig) -> tuple[Iterator[tuple[str, int]], Any, int]:
    columns = [config.id_column, config.vector_column]
    try:
        schema = pq.read_schema(config.path)
        if missing := [name for name in columns if name not in schema.names]:
            raise UserError(
                f"{config.path}: expected the columns {', '.join(columns)}, found {', '.join(schema.names)}. Name "
                f"yours for {', '.join(missing)} in id_column and vector_column."
            )
        _check_types(schema, config)
        table = pq.read_table(config.path, columns=columns)
        ids = table[config.id_column].cast(pa.string())
    except pa.ArrowException as error:
        raise UserError(f"{config.path} is not a readable Parquet file of ids and vectors ({error}).") from error
    if ids.null_count:
        raise UserError(f"{config.path}: {ids.null_count:,} rows have no id in {config.id_column}. Leave them out.")
    is_valid = pa.compute.is_valid(table[config.vector_column])
    lists = table[config.vector_column].filter(is_valid).combine_chunks()
    widths = set(pa.compute.list_value_length(lists).to_pylist()) if len(lists) else {0}
    if len(widths) != 1 or widths <= {0, None}:
        raise UserError(f"{config.path}: vectors must have one width, found widths {sorted(widths)[:5]}.")
    dim = int(widths.pop())
    rows = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)
    return ((item_id, row) for row, item_id in enumerate(ids.filter(is_valid).to_pylist())), rows, dim


def _check_types(schema: pa.Schema, config: VectorsConfig) -> None:
    id_type, vector_type = schema.field(config.id_column).type, schema.field(config.vector_column).type
    if pa.types.is_nested(id_type):
        raise UserError(f"{config.path}: expected one id per row in {config.id_column}, found {id_type}.")
    is_list = any(
        check(vector_type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )
    if not is_list or not (pa.types.is_floating(vector_type.value_type) or pa.types.is_integer(vector_type.value_type)):
        raise UserError(f"{config.path}: expected lists of numbers in {config.vector_column}, found {vector_type}.")


def _read_amazon(config: VectorsConfig) -> tuple[Iterator[tuple[str, int]], Any, int]:
    size = Path(config.path).stat().st_size
    if size == 0 or size % AMAZON_2014.itemsize:
        raise UserError(
            f"{config.path} has {size:,} bytes, which is no multiple of {AMAZON_2014.itemsize:,} (a 10-byte ASIN and "
            "4,096 float32). It was cut short, or is another format; fetch it again."
        )
    records = np.memmap(config.path, dtype=AMAZON_2014, mode="r")
    ids = ((asin.decode("ascii", "replace"), row) for row, asin in enumerate(records["id"]))
    return ids, records["vector"], 4096
