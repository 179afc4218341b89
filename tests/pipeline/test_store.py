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

from pipeline.store import Store, parse_reference
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import RECOMMENDATIONS
from tests.support.published import publish


def lineage(seed: int = 0) -> Lineage:
    """Of the table that `publish_rows` publishes."""
    return Lineage(dataset="shop", table="recommendations", stage="test", stage_version=1, config={"seed": seed})


def rows(count: int) -> pa.Table:
    columns = {
        "user_id": [f"u{i}" for i in range(count)],
        "item_id": [f"i{i}" for i in range(count)],
        "rank": range(1, count + 1),
        "score": [0.5] * count,
        "because": [None] * count,
    }
    return pa.table(columns, schema=RECOMMENDATIONS)


def publish_rows(store: Store, count: int = 3, seed: int = 0) -> TableVersion:
    return publish(store, "recommendations", rows(count), config={"seed": seed})


def test_a_published_version_is_read_by_every_reader_through_one_path(store: Store) -> None:
    path = publish_rows(store).path
    expected = rows(3).to_pylist()
    assert pl.read_parquet(path).to_dicts() == expected
    assert pl.scan_parquet(path).collect().to_dicts() == expected
    assert duckdb.sql(f"from '{path}'").pl().to_dicts() == expected
    assert pd.read_parquet(path).to_dict("records") == expected
    assert pyarrow.dataset.dataset(path).to_table().to_pylist() == expected


def test_every_file_says_where_it_came_from(store: Store) -> None:
    version = publish_rows(store)
    metadata = pq.read_schema(Path(version.path) / "part-00000.parquet").metadata
    assert metadata[b"cm3.schema"] == b"recommendations"
    assert metadata[b"cm3.dataset"] == b"shop"
    assert json.loads(metadata[b"cm3.config"]) == {"seed": 0}
    assert metadata[b"cm3.created"].endswith(b"Z")


def test_equal_lineage_is_found_again_and_other_lineage_is_not(store: Store) -> None:
    version = publish_rows(store)
    again = store.find(lineage())
    assert again is not None
    assert again.reused
    assert again.version == version.version
    assert store.find(lineage(seed=1)) is None


def test_latest_follows_the_last_run_even_back_to_an_older_version(store: Store) -> None:
    first = publish_rows(store, seed=0)
    second = publish_rows(store, seed=1)
    assert store.latest("shop", "recommendations").version == second.version
    store.find(lineage(seed=0))
    assert store.latest("shop", "recommendations").version == first.version
    assert {v.version for v in store.versions("shop", "recommendations")} == {first.version, second.version}


def test_a_failed_write_publishes_nothing_and_leaves_the_old_version(store: Store) -> None:
    old = publish_rows(store)

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
    version = publish_rows(store)
    Path(version.path).with_suffix(".json").unlink()  # as if killed between the parts and the manifest
    assert store.find(lineage()) is None
    assert publish_rows(store).version == version.version


def test_other_users_of_the_machine_may_read_what_is_published(store: Store) -> None:
    version = publish_rows(store)
    folder = Path(version.path)
    assert folder.stat().st_mode & stat.S_IROTH
    assert folder.with_suffix(".json").stat().st_mode & stat.S_IROTH
    assert (folder / "part-00000.parquet").stat().st_mode & stat.S_IROTH


def test_damage_after_publishing_is_found(store: Store) -> None:
    version = publish_rows(store)
    store.verify(version)
    part = Path(version.path) / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="does not match its manifest"):
        store.verify(version)


def test_what_was_never_published_is_named_with_what_was(store: Store) -> None:
    publish_rows(store)
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
        publish_rows(Store(tmp_path / "file"))


def test_readers_during_publishing_always_see_a_whole_version(store: Store) -> None:
    publish_rows(store, count=50, seed=0)
    stop = threading.Event()
    lengths: list[int] = []

    def read() -> None:
        while not stop.is_set():
            lengths.append(len(store.read(store.latest("shop", "recommendations"))))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seed in range(1, 30):
        publish_rows(store, count=50, seed=seed)
    stop.set()
    for reader in readers:
        reader.join()
    assert lengths
    assert set(lengths) == {50}


@pytest.mark.parametrize("text", ["", '{"dataset": "sh', "[]", "{}", "\xff\xfe", '{"dataset": 1}'])
def test_a_damaged_manifest_costs_only_its_version_and_the_next_run_mends_it(
    store: Store, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    good, bad = publish_rows(store, seed=1), publish_rows(store, seed=2)
    manifest = Path(bad.path).with_suffix(".json")
    manifest.write_bytes(text.encode("latin-1"))
    assert [version.version for version in store.versions("shop", "recommendations")] == [good.version]
    (line,) = {record.getMessage() for record in caplog.records}
    assert line.startswith(f"{manifest} is a damaged manifest")
    assert "\n" not in line
    with pytest.raises(UserError, match="has no single version"):
        store.latest("shop", "recommendations")
    assert store.find(lineage(2)) is None
    again = publish_rows(store, seed=2)
    assert store.latest("shop", "recommendations").version == again.version == bad.version
    store.verify(again)


def test_a_damaged_pointer_is_named(store: Store) -> None:
    pointer = Path(publish_rows(store).path).with_name("latest")
    for data in (b"", b"../../x", b"\xff"):
        pointer.write_bytes(data)
        with pytest.raises(UserError, match=f"{pointer} is damaged"):
            store.latest("shop", "recommendations")


@pytest.mark.parametrize(
    "reference",
    [
        "../x/y",
        "x/../y",
        "x/y@../../z",
        "/etc/passwd",
        "x//y",
        "./x/y",
        "x/y/",
        "*/y",
        "x/[a]",
        "x/y@*",
        "x\0/y",
        "~/y",
    ],
)
def test_no_reference_leaves_the_store(store: Store, tmp_path: Path, reference: str) -> None:
    outside = Store(tmp_path / "x")
    publish_rows(outside)
    with pytest.raises(UserError, match="is not DATASET/TABLE"):
        parse_reference(reference)
    dataset, _, table = reference.partition("@")[0].partition("/")
    if "@" not in reference:
        with pytest.raises(UserError, match="is no name in a store"):
            store.latest(dataset, table)


def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_ones_stays(store: Store) -> None:
    staging = store.scratch("staging")
    dead = staging / "0123456789abcdef-00000000"
    dead.mkdir()
    (dead / "part-00000.parquet").write_bytes(b"half")
    dead.with_suffix(".lock").touch()  # the kernel freed it with its process
    with store.writer(RECOMMENDATIONS, lineage(1)) as living:  # as `publish_rows` does
        publish_rows(store, seed=2)
        assert not dead.exists()
        living.write(rows(3))
    assert store.find(lineage(1)) is not None
    assert list(staging.iterdir()) == []
