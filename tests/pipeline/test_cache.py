"""The cache of finished work: by content, across processes, the newest row wins."""

import contextlib
import errno
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cache import MANY, SHARDS_IN_MEMORY, ShardCache
from pipeline.store import Store
from schemas.errors import StoreError

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
    assert again.held(["x", "unknown"]) == {"x"}


def test_a_later_row_for_the_same_key_wins_also_after_reopening(store: Store) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    cache.append(rows({"x": 1}))
    cache.append(rows({"x": 2}))
    assert cache.lookup(["x"])["size"].to_pylist() == [2]
    assert ShardCache(store, "n", SCHEMA).lookup(["x"])["size"].to_pylist() == [2]


def test_namespaces_do_not_meet(store: Store) -> None:
    ShardCache(store, "encoder-1", SCHEMA).append(rows({"x": 1}))
    assert ShardCache(store, "encoder-2", SCHEMA).held(["x"]) == set()


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


def test_a_shard_that_is_damaged_while_it_is_used_is_put_aside_and_the_next_run_goes_on(
    store: Store, tmp_path: Path
) -> None:
    ShardCache(store, "n", SCHEMA).append(rows({"a": 1}))
    ShardCache(store, "n", SCHEMA).append(rows({"b": 2}))
    cache = ShardCache(store, "n", SCHEMA)
    shard, _ = sorted((tmp_path / "store" / "_cache" / "n").glob("*.parquet"))
    shard.write_bytes(b"")
    with pytest.raises(StoreError, match=rf"^{shard}: finished work is damaged .* put aside.* Run again"):
        cache.lookup(["a"])
    assert shard.with_name(f"{shard.name}.damaged").exists()
    again = ShardCache(store, "n", SCHEMA)
    assert again.lookup(["a", "b"])["size"].to_pylist() == [None, 2]
    assert again.damaged == []


def test_a_changed_byte_anywhere_in_a_shard_never_changes_a_row(store: Store, tmp_path: Path) -> None:
    sizes = {f"key {number}": number for number in range(300)}
    ShardCache(store, "n", SCHEMA).append(rows(sizes))
    (shard,) = (tmp_path / "store" / "_cache" / "n").glob("*.parquet")
    whole, refused = shard.read_bytes(), 0
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        for name in shard.parent.glob("*"):
            name.unlink()
        shard.write_bytes(damaged)
        cache = ShardCache(store, "n", SCHEMA)
        try:
            kept = cache.lookup(list(sizes))["size"].to_pylist()
        except StoreError:
            refused += 1
            continue
        assert kept == ([None] * len(sizes) if cache.damaged else list(sizes.values()))
    assert refused > 0


def test_a_later_row_wins_though_the_clock_was_set_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ShardCache(store, "n", SCHEMA).append(rows({"x": 1, "y": 1}))
    now = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: now - 3600 * 10**9)
    cache = ShardCache(store, "n", SCHEMA)
    cache.append(rows({"x": 2}))
    cache.append(rows({"x": 3}))
    assert ShardCache(store, "n", SCHEMA).lookup(["x", "y"])["size"].to_pylist() == [3, 1]


def test_a_store_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ShardCache(store, "n", SCHEMA).append(rows({"x": 1}))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store.fs, "open", unreachable)
    with pytest.raises(OSError, match="Input/output"):
        ShardCache(store, "n", SCHEMA)


def shards(store: Store) -> list[str]:
    return sorted(store.fs.glob(f"{store.root}/_cache/n/*.parquet"))


def filled(store: Store, count: int) -> dict[str, int]:
    """One shard per row, every fourth for a key that was there before. Returns what a reader must see."""
    expected: dict[str, int] = {}
    cache = ShardCache(store, "n", SCHEMA)
    for number in range(count):
        key = f"k{number - 3 if number % 4 == 3 else number}"
        cache.append(rows({key: number}))
        expected[key] = number
    return expected


def seen(cache: ShardCache, expected: dict[str, int]) -> dict[str, int]:
    return dict(zip(expected, cache.lookup(list(expected))["size"].to_pylist(), strict=True))


def test_small_shards_are_merged_and_every_row_stays(store: Store) -> None:
    expected = filled(store, MANY - 1)
    reader = ShardCache(store, "n", SCHEMA)  # of another process, which has listed the small ones
    assert len(shards(store)) == MANY - 1
    writer = ShardCache(store, "n", SCHEMA)
    writer.append(rows({"one more": 1000}))
    assert len(shards(store)) == 1
    expected["one more"] = 1000
    assert seen(writer, expected) == seen(ShardCache(store, "n", SCHEMA), expected) == expected
    del expected["one more"]
    assert seen(reader, expected) == expected
    writer.append(rows({"k0": 2000}))
    assert seen(ShardCache(store, "n", SCHEMA), {"k0": 0}) == {"k0": 2000}


def test_a_kill_within_a_merge_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each removal in turn, after the merged shard was written; then the merge is done again."""
    remove, expected = store.fs.rm_file, filled(store, MANY - 1)
    for kept in range(3):
        removed: list[str] = []

        def killed(path: str, kept: int = kept, removed: list[str] = removed) -> None:
            if len(removed) == kept:
                raise KeyboardInterrupt
            removed.append(path)
            remove(path)

        monkeypatch.setattr(store.fs, "rm_file", killed)
        writer = ShardCache(store, "n", SCHEMA)
        while len(shards(store)) < MANY:
            expected[f"more {kept} {len(shards(store))}"] = len(expected)
            with contextlib.suppress(KeyboardInterrupt):
                writer.append(rows({list(expected)[-1]: len(expected) - 1}))
        assert seen(ShardCache(store, "n", SCHEMA), expected) == expected
    monkeypatch.setattr(store.fs, "rm_file", remove)
    ShardCache(store, "n", SCHEMA).append(rows({"last": 1}))
    assert len(shards(store)) == 1
    assert seen(ShardCache(store, "n", SCHEMA), expected | {"last": 1}) == expected | {"last": 1}


def test_shards_of_another_process_are_not_merged_over(store: Store) -> None:
    filled(store, MANY - 2)
    mine, other = ShardCache(store, "n", SCHEMA), ShardCache(store, "n", SCHEMA)
    other.append(rows({"k0": 5000}))
    mine.append(rows({"x": 1}))
    assert len(shards(store)) == MANY
    assert ShardCache(store, "n", SCHEMA).lookup(["k0", "x"])["size"].to_pylist() == [5000, 1]


def test_removed_work_is_said(store: Store) -> None:
    cache = ShardCache(store, "n", SCHEMA)
    cache.append(rows({"x": 1}))
    reader = ShardCache(store, "n", SCHEMA)
    store.fs.rm(f"{store.root}/_cache", recursive=True)
    with pytest.raises(StoreError, match=r"was removed while it was used. Run again"):
        reader.lookup(["x"])


def test_on_an_object_store_too_shards_that_another_process_merged_are_listed_anew() -> None:
    """Its error for a file that is gone has no number."""
    store = Store("memory://cm3-cache")
    try:
        expected = filled(store, MANY - 1)
        reader = ShardCache(store, "n", SCHEMA)
        ShardCache(store, "n", SCHEMA).append(rows({"one more": 1}))
        assert seen(reader, expected) == expected
        assert reader.damaged == []
    finally:
        store.fs.rm(store.root, recursive=True)


def test_two_processes_that_merge_at_once_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filled(store, MANY - 1)
    mine, other = ShardCache(store, "n", SCHEMA), ShardCache(store, "n", SCHEMA)
    listing = mine._listing

    def merged_meanwhile() -> dict[str, dict[str, int]]:
        before = listing()
        monkeypatch.setattr(mine, "_listing", listing)
        other._list()
        other._merge_small()
        return before

    monkeypatch.setattr(mine, "_listing", merged_meanwhile)
    mine.append(rows({"x": 7}))
    assert (
        seen(mine, expected | {"x": 7})
        == seen(ShardCache(store, "n", SCHEMA), expected | {"x": 7})
        == expected | {"x": 7}
    )


def test_a_shard_that_is_listed_and_not_there_is_said(store: Store, tmp_path: Path) -> None:
    ShardCache(store, "n", SCHEMA).append(rows({"x": 1}))
    (path,) = shards(store)
    Path(path).unlink()
    Path(path).symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is listed but cannot be opened"):
        ShardCache(store, "n", SCHEMA)
