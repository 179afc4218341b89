"""Finished work by content: what gives resume after a crash, cheap re-extraction and de-duplication, in one place.

A cache is a growing set of small immutable Parquet shards under `<store>/_cache/<namespace>/`. The namespace names
everything but the content that decides the result (encoder fingerprint, preprocessing); the key names the content.
"""

import io
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import PARQUET, Store, explained, write_atomically

MAX_ROWS = 1 << 32
"""Rows of a shard at most: shard and row share one integer in the index, a fifth of a tuple's memory."""
OPEN_SHARDS = 8
"""Shards kept in memory, the last that were appended or looked up: neighbours in a catalogue were mostly finished
together."""


class ShardCache:
    """Rows of `schema` by the string column `key` (the first one by default); a later row for the same key wins.

    Memory: one entry a key, its string and one integer; rows are read from the shards as they are asked for.
    """

    def __init__(self, store: Store, namespace: str, schema: pa.Schema, key: str | None = None) -> None:
        self.schema = schema
        self.key = key or schema.names[0]
        self._store = store
        self._fs = store.fs
        self._folder = f"{store.root}/_cache/{namespace}"
        self._shards: list[str] = []
        self._index: dict[str, int] = {}
        self._open: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.RLock()
        for path in sorted(self._fs.glob(f"{self._folder}/*.parquet")):
            with self._fs.open(path, "rb") as file:
                keys = pq.read_table(file, columns=[self.key])[self.key].to_pylist()
            self._add(path, keys)

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, keys: Iterable[str]) -> set[str]:
        """The keys that no row answers."""
        return {key for key in keys if key not in self._index}

    def append(self, table: pa.Table) -> None:
        """Keep finished rows: one new shard, written atomically. Names sort by time, so the newest row is read."""
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
        """One row a key, in the order asked; where a key is absent every other column is null."""
        with self._lock:
            wanted: dict[int, list[tuple[int, int]]] = {}
            for position, key in enumerate(keys):
                if key in self._index:
                    shard, row = divmod(self._index[key], MAX_ROWS)
                    wanted.setdefault(shard, []).append((position, row))
            pieces: list[pa.Table] = []
            positions: list[int] = []
            for shard, hits in sorted(wanted.items()):
                pieces.append(self._read(shard).take([row for _, row in hits]))
                positions.extend(position for position, _ in hits)
        found = pa.concat_tables([*pieces, self._nullable().empty_table()])
        place: list[int | None] = [None] * len(keys)
        for row, position in enumerate(positions):
            place[position] = row
        table = found.take(pa.array(place, pa.int64()))
        return table.set_column(table.column_names.index(self.key), self.key, pa.array(list(keys), pa.string()))

    def _nullable(self) -> pa.Schema:
        return pa.schema([field.with_nullable(True) for field in self.schema])

    def _read(self, shard: int) -> pa.Table:
        if shard not in self._open:
            with self._fs.open(self._shards[shard], "rb") as file:
                self._remember(shard, pq.read_table(file).replace_schema_metadata(None).cast(self._nullable()))
        self._open.move_to_end(shard)
        return self._open[shard]

    def _remember(self, shard: int, rows: pa.Table) -> None:
        self._open[shard] = rows
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)

    def _add(self, path: str, keys: list[str]) -> None:
        self._shards.append(path)
        first = (len(self._shards) - 1) * MAX_ROWS
        self._index.update(zip(keys, range(first, first + len(keys)), strict=True))
