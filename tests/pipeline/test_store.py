"""The store publishes whole versions or nothing, and readers need none of our code."""

import contextlib
import json
import stat
import tempfile
import threading
from collections.abc import Iterator
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
from tests.support.actors import Actor, Stop, become_nobody
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


def test_a_store_that_holds_latest_back_moves_it_when_it_is_told_to(store: Store) -> None:
    first = publish_rows(store, seed=0)
    held = Store(store.uri, moves_latest=False)
    second = publish_rows(held, seed=1)
    assert held.find(lineage(seed=1)) is not None
    assert store.latest("shop", "recommendations") == first
    held.set_latest(second)
    assert store.latest("shop", "recommendations") == second


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


def test_files_that_are_no_table_are_a_version_too_and_reading_them_as_one_is_refused(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "numbers.bin").write_bytes(b"1234")
    made = Lineage(dataset="shop", table="model", stage="test", stage_version=1, config={})
    version = store.publish_files(made, [tmp_path / "numbers.bin"], numbers=4)
    assert version == store.latest("shop", "model") == store.get("shop", "model", version.version)
    assert (version.rows, version.size, list(version.files)) == (4, 4, ["numbers.bin"])
    assert Path(version.path, "numbers.bin").read_bytes() == b"1234"
    assert version.path.endswith(f"{version.version}.files")
    store.verify(version)
    again = store.publish_files(made, [tmp_path / "numbers.bin"], numbers=4)
    assert again == version, "published once"
    assert not list(store.scratch("staging").iterdir())
    with pytest.raises(UserError, match=r"shop/model is no table: .* holds \['numbers.bin'\]"):
        store.read(version)


def find_slowly(stop: Stop, uri: str) -> bool:
    """Find the first version as a run does, and stop before it is made the latest."""
    store = Store(uri)
    set_latest = store._set_latest
    store._set_latest = lambda version: (stop(), set_latest(version))[1]  # type: ignore[method-assign, func-returns-value]
    return store.find(lineage(0)) is not None


def remove_slowly(stop: Stop, uri: str, name: str) -> bool:
    """Remove a version as garbage collection does, and stop after it was found to be unneeded."""
    store = Store(uri)
    with store.locked("shop"):
        version = store.get("shop", "recommendations", name)
        stop()
        return store.remove(version)


@pytest.mark.slow
def test_a_run_that_is_about_to_use_a_version_again_keeps_it_from_garbage_collection(store: Store) -> None:
    old, _ = publish_rows(store, seed=0), publish_rows(store, seed=1)
    run = Actor(find_slowly, store.uri).reach()
    collection = Actor(remove_slowly, store.uri, old.version)
    collection.until_it_waits()
    run.go_on()
    assert run.result() is True
    collection.reach().go_on()
    assert collection.result() is False
    store.verify(store.latest("shop", "recommendations"))


@pytest.mark.slow
def test_a_version_that_garbage_collection_is_about_to_remove_is_not_found_by_a_run(store: Store) -> None:
    old, new = publish_rows(store, seed=0), publish_rows(store, seed=1)
    collection = Actor(remove_slowly, store.uri, old.version).reach()
    run = Actor(find_slowly, store.uri)
    run.until_it_waits()
    collection.go_on()
    assert collection.result() is True
    assert run.result() is False
    assert store.latest("shop", "recommendations").version == new.version


@pytest.mark.slow
def test_a_killed_process_holds_nobody_up(store: Store) -> None:
    old = publish_rows(store, seed=0)
    Actor(remove_slowly, store.uri, old.version).reach().kill()
    assert store.find(lineage(0)) is not None


def other_machine(store: Store) -> Store:
    """The same store, as a process sees it that locks of this machine do not stop."""
    other = Store(store.uri)
    other.locked = lambda _: contextlib.nullcontext()  # type: ignore[method-assign, assignment]
    return other


def test_a_version_that_another_machine_makes_the_latest_while_its_manifest_goes_comes_back(store: Store) -> None:
    old, _ = publish_rows(store, seed=0), publish_rows(store, seed=1)
    here, there = Store(store.uri), other_machine(store)
    remove_file = here.fs.rm_file

    def rm_file(path: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(here.fs, "rm_file", remove_file)
            # The manifest was still there when the other machine looked; the pointer moves now.
            there._set_latest(old)
        remove_file(path)

    with pytest.MonkeyPatch.context() as patch, here.locked("shop"):
        patch.setattr(here.fs, "rm_file", rm_file)
        assert here.remove(old) is False
    store.verify(store.latest("shop", "recommendations"))


def test_a_run_on_another_machine_sees_that_what_it_made_the_latest_has_gone(store: Store) -> None:
    old, _ = publish_rows(store, seed=0), publish_rows(store, seed=1)
    there = other_machine(store)
    set_latest = there._set_latest

    def slowly(version: TableVersion) -> bool:
        with store.locked("shop"):
            assert store.remove(version)
        return set_latest(version)

    there._set_latest = slowly  # type: ignore[method-assign]
    assert there.find(lineage(0)) is None
    assert publish_rows(store, seed=0).version == old.version
    store.verify(store.latest("shop", "recommendations"))


def test_a_reader_whose_version_is_removed_meanwhile_is_told_so_in_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.table_writer.PART_BYTES", 1)
    with store.writer(RECOMMENDATIONS, lineage(0)) as writer:
        for _ in range(2):
            writer.write(rows(5))
    old, _ = writer.version, publish_rows(store, seed=1)
    assert len(old.files) == 2
    batches = store.batches(old, rows=3)
    assert next(batches).num_rows == 3
    with store.locked("shop"):
        assert store.remove(old)
    assert next(batches).num_rows == 2  # a file that is open is read to its end
    with pytest.raises(UserError, match=r"^shop/recommendations@\w+ was removed while it was read.*Resolve") as told:
        next(batches)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="was removed while it was read"):
        store.read(old)


def test_versions_that_go_while_they_are_listed_are_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = publish_rows(store, seed=0), publish_rows(store, seed=1)
    glob = store.fs.glob

    def listed(pattern: str) -> list[str]:
        names = glob(pattern)
        with contextlib.suppress(FileNotFoundError):
            store.fs.rm_file(f"{old.path.removesuffix('.parquet')}.json")
        return names

    monkeypatch.setattr(store.fs, "glob", listed)
    assert [version.version for version in store.versions("shop", "recommendations")] == [new.version]


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user of the machine may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="cm3-public-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(_: Stop, uri: str, elsewhere: str) -> tuple[int, list[str]]:
    """Read what another user published, then try everything that writes; returns rows and the errors' texts."""
    from botocore import exceptions  # noqa: F401 - once the rights are given up, Python's own folder may be closed

    publish_rows(Store(elsewhere))  # imports the rest
    become_nobody()
    store, said = Store(uri), []
    count = len(store.read(store.latest("shop", "recommendations")))
    for write in (
        lambda: publish_rows(store, seed=2),
        lambda: store.find(lineage(0)),
        lambda: store.put("shop/_runs/latest.json", b"{}"),
        lambda: store.scratch("new"),
    ):
        try:
            write()
        except UserError as error:
            said.append(str(error))
    return count, said


@pytest.mark.slow
def test_a_user_who_may_only_read_reads_and_is_told_so_at_every_write(public: Path, tmp_path: Path) -> None:
    store = Store(public / "store")
    old = publish_rows(store)
    store.put("shop/_runs/latest.json", b"whole")
    if Path(public).owner() != "root":
        for folder in (Path(store.root), *Path(store.root).rglob("*")):
            folder.chmod(folder.stat().st_mode & 0o555)
    count, said = Actor(as_nobody, store.uri, str(tmp_path / "own")).result()
    assert count == 3
    assert len(said) == 4
    for line in said:
        assert "Permission denied" in line
        assert "before are untouched" in line
        assert "\n" not in line
    assert store.latest("shop", "recommendations").version == old.version
    assert store.fs.cat_file(f"{store.root}/shop/_runs/latest.json") == b"whole"


def test_the_latest_is_what_was_published_last_though_the_clock_was_set_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish_rows(store, seed=0)
    monkeypatch.setattr("pipeline.table_writer.now", lambda: "2001-01-01T00:00:00.000000Z")
    new = publish_rows(store, seed=1)
    assert new.created < old.created
    assert store.latest("shop", "recommendations").version == new.version
    with store.locked("shop"):
        assert store.remove(new) is False


@pytest.mark.parametrize("kept", [100, -20])
def test_a_file_damaged_after_publishing_is_said_in_one_line(store: Store, kept: int) -> None:
    version = publish_rows(store, 500)
    (name,) = version.files
    path = Path(store.inside(version.path), name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:kept])
    for read in (store.read, lambda version: list(store.batches(version))):
        with pytest.raises(
            UserError, match=r"shop/recommendations@.* cannot be read.*delete the version's manifest"
        ) as told:
            read(version)
        assert "\n" not in str(told.value)
