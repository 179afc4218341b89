"""Downloads on a cluster stay within the limits of one machine. tests/pipeline/test_cluster.py has real workers."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pipeline.images.on_cluster import download_on_cluster
from schemas.images import ImagesConfig


class Recorder:
    """Stands in for a cluster and records what would run at the same time."""

    def __init__(self, slots: int) -> None:
        self.slots = lambda: slots
        self.shares: list[ImagesConfig] = []

    def map(self, _: object, tasks: Iterable[tuple[None, tuple[Any, ...]]], **how: Any) -> Iterator[Any]:
        self.at_once = how["at_once"]
        self.shares = [arguments[1] for _, arguments in tasks]
        return iter(())


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_workers_together_are_no_less_polite_than_one_machine(slots: int) -> None:
    config = ImagesConfig(concurrency=64, per_host=10, per_host_rate=30.0, shard_rows=4)
    recorder = Recorder(slots)
    urls = dict.fromkeys(f"http://host/{n}" for n in range(100))
    list(download_on_cluster(urls, config=config, has_picture=bool, cluster=recorder, idle=bool))  # type: ignore[arg-type]
    assert len(recorder.shares) == 25
    for share in recorder.shares:
        assert 0 < recorder.at_once * share.per_host <= 10
        assert 0 < recorder.at_once * share.concurrency <= 64
        assert recorder.at_once * share.per_host_rate == pytest.approx(30.0)
