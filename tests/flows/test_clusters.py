"""A whole run with its shards on a cluster, one worker killed, against the same run on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import clusters, job
from pipeline.store import Store
from schemas.errors import ClusterError, UserError
from schemas.images import ImagesConfig
from schemas.run import RunSummary
from tests.support.dask_cluster import DaskCluster, Killer, running
from tests.support.small_demo import small_demo

COLUMNS = {
    "images": ["item_id", "status", "sha256", "image"],
    "captions": ["item_id", "content_hash", "caption", "status"],
    "features/sentence": None,
    "features/clip": None,
    "features/caption": None,
    "similarity": None,
    "item_weights": None,
}
"""What the cluster made, without the pictures' addresses, which differ between two stores' demos."""


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskCluster]:
    with running(tmp_path) as cluster:
        cluster.fill()
        yield cluster


def test_the_demo_on_two_workers_one_killed_makes_the_tables_of_one_machine(
    finished: tuple[Store, RunSummary], tmp_path: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(dask, monkeypatch)
    stores = finished[0], Store(tmp_path / "store")
    config = ImagesConfig(shard_rows=8)
    summary = job.run(parameters=small_demo(tmp_path / "store", cluster=dask.address, images=config))
    assert killer.dead
    assert summary.encoded == finished[1].encoded
    for table, columns in COLUMNS.items():
        expected, actual = (store.read(store.latest("demo", table), columns) for store in stores)
        assert actual.equals(expected), table


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "scheduler"])
def test_a_run_without_its_cluster_says_what_to_start(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=f"no Dask scheduler answers at '{address}'"), clusters.connection(address):
        pass


def test_a_lost_scheduler_is_what_the_run_says_even_where_its_client_cannot_be_closed(
    dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    def close(*_: object, **__: object) -> None:
        raise RuntimeError("Cannot change state of expiring Timeout")

    def lose() -> None:
        monkeypatch.setattr(Client, "close", close)
        raise ClusterError("The scheduler was lost")

    with pytest.raises(ClusterError, match="was lost"), clusters.connection(dask.address):
        lose()
