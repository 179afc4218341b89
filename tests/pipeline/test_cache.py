"""The cache of finished work: by content, across processes, the newest row wins."""

from pathlib import Path

import pyarrow as pa

from pipeline.cache import SHARDS_IN_MEMORY, ShardCache
from pipeline.store import Store

SCHEMA = pa.schema([pa.field("url", pa.string(), nullable=False), pa.field("size", pa.int64())])


def rows(sizes: dict[str, int]) -> pa.Table:
    return pa.table({"url": list(sizes), "size": list(sizes.values())})


def test_finished_rows_are_found_by_a_new_process_in_the_order_asked(store: Store) -> None:
    ShardCache(store, "images/a", SCHEMA).append(rows({"x": 1, "y": 2, "z": 3}))
    again = ShardCache(store, "images/a", SCHEMA)
    assert again.lookup(["z", "unknown", "x", "z"]).to_pylist() == [
        {"url": "z", "size": 3},
        {"url": "unknown", "size": None},
        {"url": "x", "size": 1},
        {"url": "z", "size": 3},
    ]
    assert "x" in again
    assert "unknown" not in again


def test_a_later_row_for_the_same_key_wins_also_after_reopening(store: Store) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    cache.append(rows({"x": 1}))
    cache.append(rows({"x": 2}))
    assert cache.lookup(["x"])["size"].to_pylist() == [2]
    assert ShardCache(store, "n", SCHEMA).lookup(["x"])["size"].to_pylist() == [2]


def test_namespaces_do_not_meet(store: Store) -> None:
    ShardCache(store, "encoder-1", SCHEMA).append(rows({"x": 1}))
    assert "x" not in ShardCache(store, "encoder-2", SCHEMA)


def test_lookup_spans_more_shards_than_stay_in_memory(store: Store) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    keys = [f"k{i}" for i in range(3 * SHARDS_IN_MEMORY)]
    for value, key in enumerate(keys):
        cache.append(rows({key: value}))
    assert cache.lookup(keys[::-1])["size"].to_pylist() == list(range(len(keys)))[::-1]


def test_an_empty_cache_answers_nulls(store: Store) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    assert cache.lookup(["x"]).to_pylist() == [{"url": "x", "size": None}]
    assert cache.lookup([]).num_rows == 0


def test_a_half_written_shard_is_not_read(store: Store, tmp_path: Path) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    cache.append(rows({"x": 1}))
    (tmp_path / "store" / "_cache" / "n" / ".0001.parquet-abc").write_bytes(b"PAR1 half")
    assert len(ShardCache(store, "n", SCHEMA)) == 1
