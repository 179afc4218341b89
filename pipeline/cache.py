"""Finished work by content: one place for resuming after a crash, cheap re-extraction and de-duplication.

A cache is a growing set of small immutable Parquet shards under `<store>/_cache/<namespace>/`. The namespace names
everything except the content that decides the result (encoder fingerprint, preprocessing); the key names the content.
"""

import io
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.filesystem import write_atomically
from pipeline.store import Store, explained
from pipeline.table_writer import PARQUET
from schemas.errors import UserError

logger = logging.getLogger(__name__)

MAX_ROWS = 1 << 32
"""Most rows of a shard: shard and row share one integer in the index, which takes a fifth of a tuple's memory."""
SHARDS_IN_MEMORY = 8
"""The shards last appended or read stay in memory: neighbours in a catalogue were mostly finished together."""


class ShardCache:
    """Rows of `schema` by its first column, a string; a later row for the same key wins.

    A damaged shard costs only its own rows: it is left out and named in `damaged`. It is not deleted, because half an
    answer of an object store looks the same.

    Memory: a string and an integer per key; rows are read from the shards on demand.
    """

    def __init__(self, store: Store, namespace: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.key = schema.names[0]
        self._store = store
        self._fs = store.fs
        self._folder = f"{store.root}/_cache/{namespace}"
        self._shards: list[str] = []
        self._index: dict[str, int] = {}
        self._in_memory: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.RLock()
        self.damaged: list[str] = []
        for path in sorted(self._fs.glob(f"{self._folder}/*.parquet")):
            try:
                with self._fs.open(path, "rb") as file:
                    keys = pq.read_table(file, columns=[self.key])[self.key].to_pylist()
            except (pa.ArrowException, KeyError) as error:
                logger.info("%s: %s", path, error)
                self.damaged.append(path)
                continue
            self._add(path, keys)
        if self.damaged:
            logger.warning(
                "%d of %d files of finished work in %s are damaged and left out; what they held is made again. Delete "
                "them: %s", len(self.damaged), len(self._shards) + len(self.damaged), self._folder,
                ", ".join(path.rsplit("/", 1)[-1] for path in self.damaged),
            )  # fmt: skip

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def append(self, table: pa.Table) -> None:
        """Store finished rows as one new shard, written atomically. Shards' names sort by time, so the newest wins."""
        if len(table) == 0:
            return
        buffer, table = io.BytesIO(), table.select(self.schema.names).cast(self.schema)
        pq.write_table(table, buffer, **PARQUET)
        path = f"{self._folder}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        with explained(f"finished work ({path.rsplit('/', 1)[0]})", self._store):
            write_atomically(self._fs, path, buffer.getvalue())
        with self._lock:
            self._add(path, table[self.key].to_pylist())
            self._remember(len(self._shards) - 1, table.cast(self._nullable()))

    def lookup(self, keys: Sequence[str]) -> pa.Table:
        """One row per key, in the order of `keys`; for a key without a row every other column is null."""
        with self._lock:
            hits_by_shard: dict[int, list[tuple[int, int]]] = {}
            for position, key in enumerate(keys):
                if key in self._index:
                    shard, row = divmod(self._index[key], MAX_ROWS)
                    hits_by_shard.setdefault(shard, []).append((position, row))
            pieces: list[pa.Table] = []
            positions: list[int] = []
            for shard, hits in sorted(hits_by_shard.items()):
                pieces.append(self._read(shard).take([row for _, row in hits]))
                positions.extend(position for position, _ in hits)
        rows = pa.concat_tables([*pieces, self._nullable().empty_table()])
        row_of: list[int | None] = [None] * len(keys)
        for row, position in enumerate(positions):
            row_of[position] = row
        table = rows.take(pa.array(row_of, pa.int64()))
        return table.set_column(table.column_names.index(self.key), self.key, pa.array(list(keys), pa.string()))

    def _nullable(self) -> pa.Schema:
        return pa.schema([field.with_nullable(True) for field in self.schema])

    def _read(self, shard: int) -> pa.Table:
        if shard not in self._in_memory:
            path = self._shards[shard]
            try:
                with self._fs.open(path, "rb") as file:
                    rows = pq.read_table(file).replace_schema_metadata(None).cast(self._nullable())
            except (pa.ArrowException, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(
                    f"{path}: finished work is damaged ({reason}). Delete this file and run again: only what it held "
                    "is made anew."
                ) from error
            self._remember(shard, rows)
        self._in_memory.move_to_end(shard)
        return self._in_memory[shard]

    def _remember(self, shard: int, rows: pa.Table) -> None:
        self._in_memory[shard] = rows
        while len(self._in_memory) > SHARDS_IN_MEMORY:
            self._in_memory.popitem(last=False)

    def _add(self, path: str, keys: list[str]) -> None:
        self._shards.append(path)
        first = (len(self._shards) - 1) * MAX_ROWS
        self._index.update(zip(keys, range(first, first + len(keys)), strict=True))
