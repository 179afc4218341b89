"""Finished work by content: one place for resuming after a crash, cheap re-extraction and de-duplication.

A cache is a growing set of small immutable Parquet shards under `<store>/_cache/<namespace>/`. The namespace names
everything except the content that decides the result (encoder fingerprint, preprocessing); the key names the content.
"""

import contextlib
import hashlib
import io
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.filesystem import write_atomically
from pipeline.key_index import KeyIndex
from pipeline.store import Store, explained
from pipeline.table_writer import PARQUET
from schemas.errors import StoreError

logger = logging.getLogger(__name__)

MAX_ROWS = 1 << 32
"""Most rows of a shard: shard and row share one integer in the index."""
SHARDS_IN_MEMORY = 8
"""The shards last appended or read stay in memory: neighbours in a catalogue were mostly finished together."""
SMALL, MANY, LARGE = 1 << 20, 64, 16 << 20
"""As soon as there are `MANY` shards of fewer than `SMALL` bytes, they are merged into ones of about `LARGE` bytes."""
OPENED_AT_ONCE = 8
"""Shards whose keys are read at the same time: on an object store each is a few round trips."""
KEYS_READ = 1 << 16
"""Bytes asked for at a time where only keys are read: in a shard of pictures they are a hundredth of the file."""
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading a damaged Parquet file raises."""


def is_damage(error: Exception) -> bool:
    """Whether the bytes of a file are wrong, rather than out of reach: an operating system's error has a number, except
    an object store's for a file that is gone."""
    return not isinstance(error, FileNotFoundError) and (not isinstance(error, OSError) or error.errno is None)


class ShardCache:
    """Rows of `schema` by its first column, a string; a later row for the same key wins.

    A damaged shard costs only its own rows: it is left out and named in `damaged`. It is not deleted, because half an
    answer of an object store looks the same. Pages carry checksums, so no damage goes unseen.

    Shards' names sort by age: by the clock, but always after every shard that was there before, so a clock that was set
    back makes nothing old win.

    Every shard costs each later run a file's opening, so small ones are merged as work is added: the merged one is
    written before the others are removed, and a process that misses those lists the folder anew.

    Memory: about 50 bytes per key; rows are read from the shards on demand.
    """

    def __init__(self, store: Store, namespace: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.key = schema.names[0]
        self._store = store
        self._fs = store.fs
        self._folder = f"{store.root}/_cache/{namespace}"
        self._lock = threading.RLock()
        self._newest = 0
        self._list()

    def __contains__(self, key: object) -> bool:
        return bool(self.held([str(key)]))

    def __len__(self) -> int:
        return len(self._index)

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that have a row: for many a twentieth of the time that `in` takes."""
        keys = list(keys)
        with self._lock:
            places = self._index.places(keys)
        return {key for key, place in zip(keys, places, strict=True) if place is not None}

    def append(self, table: pa.Table) -> None:
        """Store finished rows as one new shard, written atomically."""
        if len(table) == 0:
            return
        with self._lock:
            self._newest = max(time.time_ns(), self._newest + 1)
            path = f"{self._folder}/{self._newest:020d}-{uuid.uuid4().hex[:8]}.parquet"
        table = table.select(self.schema.names).cast(self.schema)
        size = self._write(path, table)
        with self._lock:
            shard = self._add(path, table[self.key].to_pylist(), size)
            self._remember(shard, table.cast(self._nullable()))
            if sum(size < SMALL for size in self._sizes.values()) >= MANY:
                self._merge_small()

    def lookup(self, keys: Sequence[str]) -> pa.Table:
        """One row per key, in the order of `keys`; for a key without a row every other column is null.

        Raises:
            StoreError: finished work was removed or damaged since it was listed.
        """
        with self._lock:
            try:
                return self._rows_of(keys)
            except FileNotFoundError as error:
                before = self._index.places(keys)
                self._list()  # another process has merged some
                lost = [a for a, b in zip(before, self._index.places(keys), strict=True) if a is not None and b is None]
                if lost:
                    raise StoreError(
                        f"{error.args[-1]}: finished work was removed while it was used. Run again."
                    ) from error
                return self._rows_of(keys)

    def _rows_of(self, keys: Sequence[str]) -> pa.Table:
        hits_by_shard: dict[int, list[tuple[int, int]]] = {}
        for position, place in enumerate(self._index.places(keys)):
            if place is not None:
                shard, row = divmod(place, MAX_ROWS)
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

    def _list(self) -> None:
        """Read the keys of every shard in the folder; again if another process has merged some since they were listed.

        Raises:
            StoreError: a shard is listed and not there, time after time.
        """
        for last in (False, False, False, False, True):
            self._shards: dict[int, str] = {}
            self._sizes: dict[int, int] = {}
            self._index = KeyIndex()
            self._in_memory: OrderedDict[int, pa.Table] = OrderedDict()
            self._added = 0
            self.damaged: list[str] = []
            sizes = {path: entry["size"] for path, entry in self._listing().items()}
            paths = sorted(sizes)
            try:
                with ThreadPoolExecutor(OPENED_AT_ONCE, "keys") as pool:
                    for first in range(0, len(paths), OPENED_AT_ONCE):  # so that few wait in memory
                        part = paths[first : first + OPENED_AT_ONCE]
                        for path, keys in zip(part, pool.map(self._keys, part), strict=True):
                            if keys is None:
                                self.damaged.append(path)
                            else:
                                self._add(path, keys, sizes[path])
            except FileNotFoundError as error:
                if last:
                    raise StoreError(
                        f"{error.args[-1]}: is listed but cannot be opened. Remove it and run again."
                    ) from error
                continue
            break
        self._newest = max(map(_stamp, paths), default=self._newest)
        if self.damaged:
            logger.warning(
                "%d of %d files of finished work in %s are damaged and left out; what they held is made again. Delete "
                "them: %s", len(self.damaged), len(paths), self._folder,
                ", ".join(path.rsplit("/", 1)[-1] for path in self.damaged),
            )  # fmt: skip

    def _listing(self) -> dict[str, dict[str, int]]:
        return self._fs.glob(f"{self._folder}/*.parquet", detail=True)  # type: ignore[no-any-return]

    def _keys(self, path: str) -> list[str] | None:
        """The keys of a shard, in its order; None if it is damaged."""
        try:
            return self._rows(path, [self.key], block_size=KEYS_READ)[self.key].to_pylist()  # type: ignore[no-any-return]
        except DAMAGE as error:
            if not is_damage(error):
                raise
            logger.info("%s: %s", path, error)
            return None

    def _read(self, shard: int) -> pa.Table:
        if shard not in self._in_memory:
            path = self._shards[shard]
            try:
                rows = self._rows(path, self.schema.names).cast(self._nullable())
            except DAMAGE as error:
                if not is_damage(error):
                    raise
                reason = str(error).strip().splitlines()[0]
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    self._fs.mv(path, f"{path}.damaged")
                raise StoreError(
                    f"{path}: finished work is damaged ({reason}) and was put aside as *.damaged. Run again: only "
                    "what it held is made anew."
                ) from error
            self._remember(shard, rows)
        self._in_memory.move_to_end(shard)
        return self._in_memory[shard]

    def _rows(self, path: str, columns: list[str], **options: int) -> pa.Table:
        with self._fs.open(path, "rb", **options) as file:
            # Not `read_table`: its threads may still hold the file when the process ends, which then aborts
            # (apache/arrow#50482).
            parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            names = parquet.schema_arrow.names
            if names != self.schema.names[: len(names)]:
                raise ValueError(f"columns {names} where {self.schema.names} were written")
            table = parquet.read([name for name in columns if name in names], use_threads=False)
        for field in self.schema:
            if field.name in columns and field.name not in names:  # of a release that had no such column
                table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(columns).replace_schema_metadata(None)

    def _remember(self, shard: int, rows: pa.Table) -> None:
        self._in_memory[shard] = rows
        while len(self._in_memory) > SHARDS_IN_MEMORY:
            self._in_memory.popitem(last=False)

    def _write(self, path: str, table: pa.Table) -> int:
        """Bytes written."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **PARQUET, write_page_checksum=True)
        with explained(f"finished work ({self._folder})", self._store):
            write_atomically(self._fs, path, buffer.getvalue())
        return buffer.tell()

    def _add(self, path: str, keys: list[str], size: int) -> int:
        """Number of the new shard."""
        shard, self._added = self._added, self._added + 1
        self._shards[shard], self._sizes[shard] = path, size
        self._index.update(keys, shard * MAX_ROWS)
        return shard

    def _merge_small(self) -> None:
        """Put small shards together, each row that still counts.

        Left for later where this process does not know every shard, because another one adds work or a damaged one may
        yet be read: a row there may be newer than one merged here. A kill leaves the merged shard beside the old ones,
        which say the same.
        """
        if self.damaged or set(self._listing()) != set(self._shards.values()):
            return
        try:
            self._merge_in_groups()
        except FileNotFoundError:  # another process did the same
            self._list()

    def _merge_in_groups(self) -> None:
        group: list[int] = []
        for shard in [shard for shard, size in self._sizes.items() if size < SMALL]:
            group.append(shard)
            if sum(self._sizes[each] for each in group) >= LARGE:
                self._merge(group)
                group = []
        if len(group) > 1:
            self._merge(group)

    def _merge(self, group: list[int]) -> None:
        parts: list[pa.Table] = []
        for shard in group:
            rows = self._read(shard)
            places = self._index.places(rows[self.key].to_pylist())
            parts.append(rows.filter(pa.array([place == shard * MAX_ROWS + row for row, place in enumerate(places)])))
        table = pa.concat_tables(parts).cast(self.schema)
        paths = [self._shards[shard] for shard in group]
        if len(table) > 0:
            # As old as the newest of them; done again after a kill, it has the same name.
            newest, names = max(map(_stamp, paths)), "\n".join(paths)
            path = f"{self._folder}/{newest:020d}-{hashlib.sha256(names.encode()).hexdigest()[:8]}.parquet"
            self._add(path, table[self.key].to_pylist(), self._write(path, table))
        for shard, path in zip(group, paths, strict=True):
            del self._shards[shard], self._sizes[shard]
            self._in_memory.pop(shard, None)
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)


def _stamp(path: str) -> int:
    """The number that a shard's name begins with."""
    number = path.rsplit("/", 1)[-1].split("-")[0]
    return int(number) if number.isdecimal() else 0
