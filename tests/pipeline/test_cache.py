"""The cache of finished work: by content, across processes, the newest row wins."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cache import SHARDS_IN_MEMORY, ShardCache
from pipeline.store import Store
from schemas.errors import UserError

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


def test_a_damaged_shard_costs_only_its_own_rows_and_is_counted(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    for value, key in enumerate("abcde"):
        cache.append(rows({key: value}))
    cut, empty, other, _, _ = sorted((tmp_path / "store" / "_cache" / "n").glob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-20])
    empty.write_bytes(b"")
    pq.write_table(pa.table({"another": [1]}), other)
    again = ShardCache(store, "n", SCHEMA)
    assert again.lookup(list("abcde"))["size"].to_pylist() == [None, None, None, 3, 4]
    assert again.damaged == [str(cut), str(empty), str(other)]
    (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "3 of 5 files of finished work" in line.getMessage()
    again.append(rows({"a": 9}))
    assert ShardCache(store, "n", SCHEMA).lookup(["a"])["size"].to_pylist() == [9]


def test_a_shard_that_is_damaged_while_it_is_used_is_named(store: Store, tmp_path: Path) -> None:
    ShardCache(store, "n", SCHEMA).append(rows({"a": 1}))
    cache = ShardCache(store, "n", SCHEMA)
    (shard,) = (tmp_path / "store" / "_cache" / "n").glob("*.parquet")
    shard.write_bytes(b"")
    with pytest.raises(UserError, match=f"{shard}: finished work is damaged"):
        cache.lookup(["a"])
