"""A store on a real S3 that is overloaded, or breaks off in the middle: nothing is lost, nothing half is read."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipeline.cache import ShardCache
from pipeline.store import Store
from schemas.errors import StoreError
from tests.support.large_tables import SCHEMA, publish_large
from tests.support.object_store import Way, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with running() as way:
        yield way


@pytest.fixture
def remote(way: Way, request: pytest.FixtureRequest) -> Store:
    """An empty store of the test's own."""
    way.faults = {}
    return Store(f"s3://shop/{request.node.name.split('[')[0]}")


def test_a_table_is_published_and_read_whole_through_faults(way: Way, remote: Store) -> None:
    way.faults = {
        "PUT": ["slow down", "whole", "slow down", "slow down"],
        "GET": ["slow down", "half", "whole", "half", "slow down"],
        "HEAD": ["slow down", "whole", "slow down"],
    }
    version = publish_large(remote, 1, megabytes=3)
    assert remote.latest("d", "t") == version
    remote.verify(version)
    assert [len(value) for value in remote.read(version)["value"].to_pylist()] == [1 << 20] * 3
    assert sum(len(batch) for batch in remote.batches(version, rows=1)) == 3
    assert way.faults == {"PUT": [], "GET": [], "HEAD": []}


def test_a_store_that_stays_overloaded_is_one_line_and_what_was_there_stays(way: Way, remote: Store) -> None:
    old = publish_large(remote, 1, megabytes=1)
    way.faults = {"PUT": ["slow down"] * 40}
    with pytest.raises(StoreError, match=r"Could not write d/t to s3://.*reduce your request rate.*run again") as told:
        publish_large(remote, 2, megabytes=1)
    assert "\n" not in str(told.value)
    way.faults = {}
    assert remote.latest("d", "t") == old
    new = publish_large(remote, 2, megabytes=1)
    remote.verify(remote.latest("d", "t"))
    assert remote.latest("d", "t") == new


def test_finished_work_is_not_taken_for_damaged_where_an_answer_breaks_off(way: Way, remote: Store) -> None:
    ShardCache(remote, "n", SCHEMA).append(pa.table({"key": ["a", "b"], "value": [bytes(1 << 20), b"b"]}, SCHEMA))
    way.faults = {"GET": ["whole", "half", "half", "whole", "half", "slow down"]}
    cache = ShardCache(remote, "n", SCHEMA)
    assert [len(value) for value in cache.lookup(["a", "b"])["value"].to_pylist()] == [1 << 20, 1]
    assert cache.damaged == []


def test_a_removed_version_is_gone_from_the_bucket(remote: Store) -> None:
    old, new = publish_large(remote, 1, megabytes=1), publish_large(remote, 2, megabytes=1)
    with remote.locked("d"):
        assert remote.remove(old) is True
        assert remote.remove(new) is False
    assert not any("part-" in path for path in remote.fs.find(remote.inside(old.path)))
    assert [version.version for version in remote.versions("d", "t")] == [new.version]
