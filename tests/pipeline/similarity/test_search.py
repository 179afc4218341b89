"""A search leaves nothing in memory except its neighbours."""

import ctypes
import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.similarity import neighbours, search
from pipeline.similarity.edges import Neighbours
from pipeline.similarity.schedule import Schedule
from pipeline.similarity.vectors import FeatureTable
from schemas.similarity import SimilarityConfig

ITEMS, DIM, K = 40_000, 384, 10


def resident() -> int:
    """Bytes of this process in memory, without freed ones that glibc has kept."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def topics() -> np.ndarray:
    """(ITEMS, DIM) float32 rows around 200 centres."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((200, 32), np.float32)[rng.integers(0, 200, ITEMS)]
    latent += 0.5 * rng.standard_normal((ITEMS, 32), np.float32)
    rows: np.ndarray = latent @ rng.standard_normal((32, DIM), np.float32)
    rows += rng.standard_normal((ITEMS, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def search_and_measure(answer: Connection) -> None:
    """Search by clusters, in float32; answer how much the process grew in each run, and how many pairs there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3_DEVICE", "cpu")
        patch.setattr(search, "cpu_multiplies_bfloat16", lambda: False)
        run, grown = search.Search.run, []

        def watched(self: search.Search, schedule: Schedule) -> list[Neighbours]:
            before = resident()
            edges = run(self, schedule)
            grown.append(resident() - before)
            return edges

        patch.setattr(search.Search, "run", watched)
        ids = pa.array([f"{item:06}" for item in range(ITEMS)])
        config = SimilarityConfig(k=K, approximate_above=ITEMS // 2)
        graph = neighbours.nearest({"text": FeatureTable(ids, topics())}, {"text": 1.0}, config, None)
        answer.send((grown, len(graph.edges[0].rows), graph.measured["exact"]))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm, which Linux has")
@pytest.mark.slow
def test_neighbours_are_all_that_stays_in_memory() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=search_and_measure, args=(theirs,))
    child.start()
    theirs.close()
    growths, pairs, exact = ours.recv()
    child.join()
    assert not exact
    assert pairs == K * ITEMS
    grown = sum(growths)
    assert grown < 100 * pairs, f"{grown / 2**20:.0f} MB more, {pairs} pairs"
