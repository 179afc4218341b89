"""The store publishes whole versions or nothing, and readers need none of our code."""

import json
import stat
import threading
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import RECOMMENDATIONS


def lineage(seed: int = 0, table: str = "recommendations", dataset: str = "shop") -> Lineage:
    return Lineage(dataset=dataset, table=table, stage="test", stage_version=1, config={"seed": seed})


def rows(count: int, score: float = 0.5) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{i}" for i in range(count)],
            "item_id": [f"i{i}" for i in range(count)],
            "rank": pa.array(range(1, count + 1), pa.int32()),
            "score": pa.array([score] * count, pa.float32()),
        }
    )


def publish(store: Store, count: int = 3, seed: int = 0) -> TableVersion:
    with store.writer(RECOMMENDATIONS, lineage(seed)) as writer:
        writer.write(rows(count))
    return writer.version


def test_a_published_version_is_read_by_every_reader_through_one_path(store: Store) -> None:
    path = publish(store).path
    expected = rows(3).to_pylist()
    assert pl.read_parquet(path).to_dicts() == expected
    assert pl.scan_parquet(path).collect().to_dicts() == expected
    assert duckdb.sql(f"from '{path}'").pl().to_dicts() == expected
    assert pd.read_parquet(path).to_dict("records") == expected
    assert pyarrow.dataset.dataset(path).to_table().to_pylist() == expected


def test_every_file_says_where_it_came_from(store: Store) -> None:
    version = publish(store)
    metadata = pq.read_schema(Path(version.path) / "part-00000.parquet").metadata
    assert metadata[b"cm3.schema"] == b"recommendations"
    assert metadata[b"cm3.dataset"] == b"shop"
    assert json.loads(metadata[b"cm3.config"]) == {"seed": 0}
    assert metadata[b"cm3.created"].endswith(b"Z")


def test_equal_lineage_is_found_again_and_other_lineage_is_not(store: Store) -> None:
    version = publish(store)
    found = store.find(lineage())
    assert found is not None
    assert found.reused
    assert found.version == version.version
    assert store.find(lineage(seed=1)) is None


def test_latest_follows_the_last_run_even_back_to_an_older_version(store: Store) -> None:
    first = publish(store, seed=0)
    second = publish(store, seed=1)
    assert store.latest("shop", "recommendations").version == second.version
    store.find(lineage(seed=0))
    assert store.latest("shop", "recommendations").version == first.version
    assert {v.version for v in store.versions("shop", "recommendations")} == {first.version, second.version}


def test_a_failed_write_publishes_nothing_and_leaves_the_old_version(store: Store) -> None:
    old = publish(store)

    def broken_stage() -> None:
        with store.writer(RECOMMENDATIONS, lineage(1)) as writer:
            writer.write(rows(2))
            raise RuntimeError("stage broke")

    with pytest.raises(RuntimeError, match="stage broke"):
        broken_stage()
    assert store.latest("shop", "recommendations").version == old.version
    assert [v.version for v in store.versions("shop", "recommendations")] == [old.version]
    assert not list(store.scratch("staging").iterdir())


def test_parts_without_a_manifest_are_no_version_and_are_replaced(store: Store) -> None:
    version = publish(store)
    Path(version.path).with_suffix(".json").unlink()  # as if killed between the parts and the manifest
    assert store.find(lineage()) is None
    assert publish(store).version == version.version


def test_rows_that_break_the_contract_are_refused_before_publishing(store: Store) -> None:
    bad = rows(2).set_column(0, "user_id", pa.array(["u", None]))
    with pytest.raises(ValueError, match="'user_id' is required"), store.writer(RECOMMENDATIONS, lineage()) as writer:
        writer.write(bad)
    assert store.versions("shop", "recommendations") == []


def test_an_empty_table_still_shows_its_columns(store: Store) -> None:
    with store.writer(RECOMMENDATIONS, lineage()) as writer:
        pass
    assert store.read(writer.version).column_names == RECOMMENDATIONS.names


def test_large_tables_become_several_parts_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.PART_BYTES", 100)
    with store.writer(RECOMMENDATIONS, lineage()) as writer:
        for start in range(0, 30, 10):
            writer.write(rows(30).slice(start, 10))
    assert len(writer.version.files) == 3
    assert store.read(writer.version).to_pylist() == rows(30).to_pylist()
    batches = list(store.batches(writer.version, rows=7))
    assert max(len(batch) for batch in batches) <= 7
    assert pa.concat_tables(batches).to_pylist() == rows(30).to_pylist()


def test_other_users_of_the_machine_may_read_what_is_published(store: Store) -> None:
    version = publish(store)
    folder = Path(version.path)
    assert folder.stat().st_mode & stat.S_IROTH
    assert folder.with_suffix(".json").stat().st_mode & stat.S_IROTH
    assert (folder / "part-00000.parquet").stat().st_mode & stat.S_IROTH


def test_damage_after_publishing_is_found(store: Store) -> None:
    version = publish(store)
    store.verify(version)
    part = Path(version.path) / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="does not match its manifest"):
        store.verify(version)


def test_what_was_never_published_is_named_with_what_was(store: Store) -> None:
    publish(store)
    with pytest.raises(UserError, match="Published tables: recommendations"):
        store.latest("shop", "items")
    with pytest.raises(UserError, match="Published data sets: shop"):
        store.latest("other", "items")
    with pytest.raises(UserError, match="published versions"):
        store.get("shop", "recommendations", "ffff")
    assert store.datasets() == ["shop"]
    assert store.tables("shop") == ["recommendations"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="published before are untouched"):
        publish(Store(tmp_path / "file"))


def test_readers_during_publishing_always_see_a_whole_version(store: Store) -> None:
    publish(store, count=50, seed=0)
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(len(store.read(store.latest("shop", "recommendations"))))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seed in range(1, 30):
        publish(store, count=50, seed=seed)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen
    assert set(seen) == {50}
