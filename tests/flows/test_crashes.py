"""kill -9 and a full disk: what was published stays, finished work is kept, a retry ends as if unbroken."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.cache import ShardCache
from pipeline.store import Store
from schemas.errors import UserError
from tests.support.large_tables import SCHEMA, publish_large
from tests.support.runner import Run, contents, demo, same, shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The tables of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return contents(Store(folder), Run(demo(folder)).finish())


def test_a_run_killed_in_each_stage_in_turn_ends_as_an_unbroken_one_and_encodes_nothing_twice(
    tmp_path: Path, unbroken: dict[str, pl.DataFrame]
) -> None:
    def begun(stage: str) -> Callable[[Run], bool]:
        return lambda run: run.saw(f"{stage} …")

    def kept(cache: str) -> Callable[[Run], bool]:
        return lambda run: shards(tmp_path, cache) > 0

    moments: list[Callable[[Run], bool]] = [
        *map(begun, ("models", "ingest", "images")),
        kept("images"),
        begun("features/sentence"),
        kept("features/sentence-*"),
        begun("features/vision"),
        kept("features/timm-*"),
        begun("similarity"),
        begun("train"),
        lambda run: run.saw("cm3 epoch 3:"),
        lambda run: run.saw("cm3 goes on after epoch"),
        begun("report"),
        begun("registry"),
    ]
    for moment in moments:
        run = Run(demo(tmp_path))
        run.wait(lambda moment=moment, run=run: moment(run))  # type: ignore[misc]
        run.kill()
    summary = Run(demo(tmp_path)).finish()
    assert summary.encoded == {"sentence": 0, "vision": 0}
    assert summary.registered == "1 (champion)"
    same(contents(Store(tmp_path), summary), unbroken)


def test_two_runs_at_once_on_one_data_set_the_second_waits_and_finds_all_done(
    tmp_path: Path, unbroken: dict[str, pl.DataFrame]
) -> None:
    first = Run(demo(tmp_path))
    first.wait(lambda: first.saw("ingest …"))
    second = Run(demo(tmp_path))
    second.wait(lambda: second.saw("demo: another run works on this data set"))
    assert not second.saw("models …")
    same(contents(Store(tmp_path), first.finish()), unbroken)
    summary = second.finish()
    assert all(stage.reused for stage in summary.stages)
    assert sum(summary.encoded.values()) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system can be mounted by root only: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_said_clearly_and_costs_nothing_that_was_there(small_disk: Path) -> None:
    store = Store(small_disk)
    old = publish_large(store, 1, megabytes=1)
    with pytest.raises(UserError, match=r"d/t.*No space left on device.*before are untouched.*Free space"):
        publish_large(store, 2, megabytes=8)
    with pytest.raises(UserError, match="No space left on device"):
        ShardCache(store, "work", SCHEMA).append(pa.table({"key": ["a"], "value": [os.urandom(4 << 20)]}, SCHEMA))
    assert store.latest("d", "t") == old
    store.verify(old)
    assert len(ShardCache(store, "work", SCHEMA)) == 0
    assert [path for path in small_disk.rglob("*") if path.stat().st_size > 1.5 * (1 << 20)] == []
    subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
    assert store.latest("d", "t") != publish_large(store, 2, megabytes=8)
    assert store.latest("d", "t").rows == 8
