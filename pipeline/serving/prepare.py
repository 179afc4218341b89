"""A version's tables as files that serving processes map into memory: numbers instead of ids, rows grouped by what is
asked for."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report.delivery import Delivery, delivery
from pipeline.serving import grouped
from pipeline.serving.grouped import Batch
from pipeline.store import Store, digest
from schemas.lineage import TableVersion, canonical_json
from schemas.serving import Prepared
from schemas.similarity import SimilarityConfig

FORMAT = 1
"""Raised when the files change."""
TRAINED = ("embeddings/items", "embeddings/users", "item_weights", "recommendations")
"""Tables that one training publishes."""
READ = ("items", "interactions", "similarity")
"""Tables that are read beside them."""
BATCH_ROWS = 1 << 20
"""Rows whose ids are looked up at once: each look-up hashes all ids anew."""
VECTOR_ROWS = 16_384

ITEM = np.dtype([("item", "<i4")])
WEIGHT = np.dtype([("item", "<i4"), ("weight", "<f4")])
LISTED = np.dtype([("item", "<i4"), ("score", "<f4"), ("because", "<i4", (3,))])
ABOUT = "about.json"


def prepare(store: Store, tables: Mapping[str, TableVersion], version: str, folder: Path) -> None:
    """Check the tables' checksums and write what `Model` reads into `folder`, which exists and is empty.

    Memory: the ids and titles, one batch, and a number per user and item.

    Raises:
        UserError: a file was changed or lost.
    """
    for table in tables.values():
        store.verify(table)
    items = _items(store, tables)
    users = pc.unique(store.read(tables["embeddings/users"], ["user_id"])["user_id"]).cast(pa.large_string())
    users = users.take(pc.sort_indices(users))
    ids = items["item_id"].combine_chunks()
    _write_arrow(items, folder / "items.arrow")
    _write_arrow(pa.table({"user_id": users}), folder / "users.arrow")
    scored = _write_vectors(store, tables["embeddings/items"], "item_id", ids, folder / "item_vectors.npy")
    _write_vectors(store, tables["embeddings/users"], "user_id", users, folder / "user_vectors.npy")
    np.save(folder / "unscored.npy", np.flatnonzero(~scored))
    _Groups(store, tables, ids, users, folder).write()
    about = Prepared(
        dataset=tables["items"].dataset,
        version=version,
        embeddings=tables["embeddings/items"].version,
        top_k=_config(tables["recommendations"]).get("top_k", 0),
        neighbors=_neighbors(tables["similarity"]),
        features=_features(store, tables["similarity"]),
    )
    (folder / ABOUT).write_text(about.model_dump_json())


def about(folder: Path) -> Prepared:
    """What a prepared folder holds."""
    return Prepared.model_validate_json((folder / ABOUT).read_text())


def never_shown(folder: Path, ids: Collection[str]) -> str:
    """Write the rows of items that are never shown; returns the name of the file."""
    name = f"never_shown-{digest(canonical_json(sorted(ids)))}.npy"
    if not (folder / name).exists():
        rows = _rows(pa.array(sorted(ids), pa.large_string()), column(folder / "items.arrow", "item_id"))
        draft = folder / f".{name}"
        np.save(draft.open("wb"), np.sort(rows[rows >= 0]))
        draft.replace(folder / name)
    return name


def column(path: Path, name: str) -> pa.Array:
    """A column of an Arrow file, mapped into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()[name].combine_chunks()


def _items(store: Store, tables: Mapping[str, TableVersion]) -> pa.Table:
    """Ids, in order, and titles of all items of the catalogue, and of those that only have a vector."""
    catalogue = store.read(tables["items"], ["item_id", "title"])
    trained = store.read(tables["embeddings/items"], ["item_id"])["item_id"]
    more = trained.filter(pc.invert(pc.is_in(trained, catalogue["item_id"].combine_chunks())))
    rest = pa.table({"item_id": more, "title": pa.nulls(len(more), pa.string())})
    schema = pa.schema([("item_id", pa.large_string()), ("title", pa.large_string())])
    return pa.concat_tables([part.cast(schema) for part in (catalogue, rest)]).sort_by("item_id")


def _write_arrow(table: pa.Table, path: Path) -> None:
    table = table.combine_chunks()
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def _rows(ids: pa.Array | pa.ChunkedArray, among: pa.Array) -> NDArray[np.int64]:
    """Row number of each id; -1 where it is not among them."""
    rows = pc.index_in(ids.cast(pa.large_string()), value_set=among)
    return np.asarray(rows.fill_null(-1)).astype(np.int64)


def _write_vectors(store: Store, version: TableVersion, key: str, ids: pa.Array, path: Path) -> NDArray[np.bool_]:
    """The vectors in the order of the ids, zeros where there is none; returns which ids have one."""
    has_vector = np.zeros(len(ids), np.bool_)
    vectors: NDArray[np.float32] | None = None
    for batch in store.batches(version, [key, "embedding"], VECTOR_ROWS):
        width = batch.schema.field("embedding").type.list_size
        if vectors is None:
            vectors = np.lib.format.open_memmap(path, "w+", np.float32, (len(ids), width))
        rows = _rows(batch[key], ids)
        vectors[rows] = batch["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        has_vector[rows] = True
    if vectors is None:
        np.save(path, np.zeros((len(ids), 0), np.float32))
    return has_vector


class _Groups:
    """Writes the tables that are looked up by user or item."""

    def __init__(
        self, store: Store, tables: Mapping[str, TableVersion], items: pa.Array, users: pa.Array, folder: Path
    ) -> None:
        self.store, self.tables, self.items, self.users, self.folder = store, tables, items, users, folder

    def write(self) -> None:
        """Lists, choices and what is left out by user; weights by chosen item; neighbours by item."""
        n_items, n_users = len(self.items), len(self.users)
        made = delivery(self.tables) or Delivery(refit=True, exclude="all")
        everything = ("train", "valid", "test")
        chosen = everything if made.refit else ("train",)
        left_out = {"all": everything, "train": chosen}.get(made.exclude, ())
        grouped.write(self.folder, "lists", n_users, LISTED, self._lists)
        grouped.write(self.folder, "chosen", n_users, ITEM, lambda: self._choices(chosen))
        grouped.write(self.folder, "left_out", n_users, ITEM, lambda: self._choices(left_out))
        grouped.write(self.folder, "weights", n_items, WEIGHT, self._weights)
        neighbor = neighbor_type(_features(self.store, self.tables["similarity"]))
        grouped.write(self.folder, "neighbors", n_items, neighbor, lambda: self._neighbors(neighbor))

    def _lists(self) -> Iterator[Batch]:
        for batch in self._batches("recommendations", ["user_id", "item_id", "score", "because"]):
            rows = np.zeros(len(batch), LISTED)
            rows["item"], rows["score"] = _rows(batch["item_id"], self.items), batch["score"].to_numpy()
            rows["because"] = self._because(batch["because"].combine_chunks())
            yield _present(_rows(batch["user_id"], self.users), rows)

    def _because(self, because: pa.ListArray) -> NDArray[np.int64]:
        lengths = np.asarray(pc.list_value_length(because).fill_null(0))
        starts = np.cumsum(lengths) - lengths
        rows = np.full((len(because), LISTED["because"].shape[0]), -1)
        line = np.repeat(np.arange(len(because)), lengths)
        rows[line, np.arange(lengths.sum()) - starts[line]] = _rows(because.flatten(), self.items)
        return rows

    def _choices(self, splits: Sequence[str]) -> Iterator[Batch]:
        for batch in self._batches("interactions", ["user_id", "item_id", "split"]):
            kept = batch.filter(pc.is_in(batch["split"], pa.array(splits, pa.string())))
            rows = np.zeros(len(kept), ITEM)
            rows["item"] = _rows(kept["item_id"], self.items)
            yield _present(_rows(kept["user_id"], self.users), rows)

    def _weights(self) -> Iterator[Batch]:
        for batch in self._batches("item_weights", ["item_id", "chosen_id", "weight"]):
            rows = np.zeros(len(batch), WEIGHT)
            rows["item"], rows["weight"] = _rows(batch["item_id"], self.items), batch["weight"].to_numpy()
            yield _present(_rows(batch["chosen_id"], self.items), rows)

    def _neighbors(self, dtype: np.dtype[Any]) -> Iterator[Batch]:
        held = _neighbors(self.tables["similarity"])
        names = [name for name in dtype.names or () if name != "item"]
        for batch in self._batches("similarity", ["item_id", "neighbor_id", *names]):
            kept = batch.filter(pc.less_equal(batch["rank"], held))
            rows = np.zeros(len(kept), dtype)
            rows["item"] = _rows(kept["neighbor_id"], self.items)
            for name in names:
                rows[name] = kept[name].to_numpy()
            yield _present(_rows(kept["item_id"], self.items), rows)

    def _batches(self, table: str, columns: list[str]) -> Iterator[pa.Table]:
        yield from _joined(self.store.batches(self.tables[table], columns, 65_536))


def neighbor_type(features: Sequence[str]) -> np.dtype[Any]:
    """The record of one neighbour."""
    cosines = [(f"similarity_{name}", "<f4") for name in features]
    return np.dtype([("item", "<i4"), ("rank", "<i4"), ("similarity", "<f4"), *cosines])


def _present(group: NDArray[np.int64], rows: grouped.Records) -> Batch:
    """Only the rows whose two ids are known."""
    kept = (group >= 0) & (rows["item"] >= 0)
    return group[kept], rows[kept]


def _joined(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, about `BATCH_ROWS` at a time."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= BATCH_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _config(version: TableVersion) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(version.lineage.get("cm3.config", "{}"))
    return config


def _neighbors(similarity: TableVersion) -> int:
    return int(_config(similarity).get("k", SimilarityConfig().k))


def _features(store: Store, similarity: TableVersion) -> list[str]:
    prefix = "similarity_"
    part = f"{store.inside(similarity.path)}/{min(similarity.files)}"
    with store.fs.open(part, "rb") as file:
        names = pa.parquet.read_schema(file).names
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
