"""Shards on two worker processes, one of them killed meanwhile: the published bytes are those of one machine."""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client

from pipeline import cluster as clusters
from pipeline import features, images, similarity
from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.encoders.on_cluster import map_shards
from pipeline.features import shards
from pipeline.published import Published
from pipeline.similarity import on_cluster
from pipeline.similarity.schedule import Pairs, Probe, work
from pipeline.store import Store
from schemas.encoders import PRESETS, EncoderSpec
from schemas.errors import ClusterError, UserError
from schemas.lineage import TableVersion
from schemas.similarity import SimilarityConfig
from tests.support.chaos_server import ChaosServer
from tests.support.dask_cluster import DaskCluster, Killer, Load, arrivals, running, times
from tests.support.images_stage import publish_urls, quick_config
from tests.support.published import jpeg, publish_images, publish_items
from tests.support.real_models import tiny_reader
from tests.support.similarity_graphs import publish_feature, random_vectors
from trainers.item_weights import ridge
from trainers.item_weights.candidates import Candidates

Stage = Callable[..., Published]
"""A stage with everything given except `cluster`."""


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with running(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture
def two(dask: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> DaskCluster:
    """Two workers, whatever an earlier test did to them; and files that do not tell the time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    dask.fill()
    return dask


def both_ways(
    tmp_path: Path, table: str, stage: Callable[[Store], Stage], two: DaskCluster
) -> tuple[TableVersion, TableVersion]:
    """The table that a stage publishes on this machine, and on the cluster, each into a store of its own."""
    on_machine, on_workers = stage(Store(tmp_path / "machine")), stage(Store(tmp_path / "cluster"))
    return on_machine(cluster=None).tables[table], on_workers(cluster=Cluster(two.client)).tables[table]


TEXTS = [(f"i{n}", f"red shoe number {n % 90} " * (1 + n % 7) if n % 11 else None) for n in range(72)]
PICTURES = [
    (f"i{n}", b"no picture" if n == 7 else jpeg((n * 7 % 256, n * 13 % 256, 90), side=20 + n) if n % 9 else None)
    for n in range(40)
]


@pytest.mark.parametrize("feature", ["sentence", "vision", "unified"])
def test_features_are_the_bytes_of_one_machine_though_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: DaskCluster, feature: str
) -> None:
    monkeypatch.setattr("pipeline.features.stage.TEXT_SHARD", 8)
    monkeypatch.setattr("pipeline.features.stage.IMAGE_SHARD", 5)
    tiny_reader(tmp_path)
    unified = EncoderSpec(kind="multimodal", model=str(tmp_path / "model"))
    spec = (PRESETS["offline"].encoders | {"unified": unified})[feature]

    def stage(store: Store) -> Stage:
        texts = TEXTS if feature == "sentence" else TEXTS[: len(PICTURES)]
        items, pictures = publish_items(store, texts), publish_images(store, PICTURES)
        both = {"source": items, "images": pictures}
        tables = {"sentence": {"source": items}, "vision": {"source": pictures}, "unified": both}[feature]
        return partial(features.run, store=store, **tables, name=feature, spec=spec)

    killer = Killer(two, monkeypatch)
    expected, version = both_ways(tmp_path, f"features/{feature}", stage, two)
    assert killer.dead, "a worker was killed at work"
    assert version.files == expected.files, "SHA-256 of every file, by name"


def test_an_item_with_an_unreadable_picture_is_encoded_once(store: Store, tmp_path: Path, two: DaskCluster) -> None:
    tiny_reader(tmp_path)
    spec = EncoderSpec(kind="multimodal", model=str(tmp_path / "model"))
    red, green, broken = jpeg((200, 0, 0)), jpeg((0, 200, 0)), b"no picture"

    def encoded(*shop: tuple[str, str, bytes]) -> tuple[float, float]:
        tables = {
            "source": publish_items(store, [(item, text) for item, text, _ in shop]),
            "images": publish_images(store, [(item, picture) for item, _, picture in shop]),
        }
        published = features.run(store=store, **tables, name="unified", spec=spec, cluster=Cluster(two.client))
        return published.counts["encoded"], published.counts["unreadable"]

    part, whole, new = ("part", "a mug", broken), ("whole", "a mug", red), ("new", "a lamp", green)
    assert encoded(part, whole) == (2, 1)
    assert encoded(part, whole, new) == (1, 1)


def test_pictures_are_the_bytes_of_one_machine_though_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: DaskCluster
) -> None:
    with ChaosServer() as server:
        urls = [server.url("/404" if n % 10 == 3 else f"/good/{n % 50}") for n in range(60)]
        config = quick_config(shard_rows=5, per_host=4)

        def stage(store: Store) -> Stage:
            return partial(images.run, store=store, items=publish_urls(store, [*urls, None]), config=config)

        killer = Killer(two, monkeypatch)
        expected, version = both_ways(tmp_path, "images", stage, two)
        assert killer.dead
        assert version.files == expected.files


@pytest.mark.parametrize("approximate_above", [10**6, 1000], ids=["every pair", "near clusters"])
def test_the_graph_is_the_bytes_of_one_machine_though_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: DaskCluster, approximate_above: int
) -> None:
    config = SimilarityConfig(k=5, approximate_above=approximate_above)
    monkeypatch.setattr("pipeline.similarity.search.BLOCK", 512)  # not what the workers would choose, as beside a GPU
    given = [random_vectors(seed, 4000, dim=24, absent=0.1, repeated=0.05) for seed in (1, 2)]

    def stage(store: Store) -> Stage:
        tables = {name: publish_feature(store, name, vectors, 24) for name, vectors in zip("ab", given, strict=True)}
        return partial(similarity.run, store=store, features=tables, config=config)

    killer = Killer(two, monkeypatch)
    expected, version = both_ways(tmp_path, "similarity", stage, two)
    assert killer.dead
    assert version.files == expected.files
    assert version.rows > 4000


def test_item_weights_are_those_of_one_machine_though_a_worker_is_killed(
    monkeypatch: pytest.MonkeyPatch, two: DaskCluster
) -> None:
    rng, setting = np.random.default_rng(0), ridge.Ridge(5.0, 20.0)
    interactions = sp.random(600, 1200, 0.02, "csr", np.float32, rng, lambda n: np.ones(n, np.float32))
    content = rng.normal(size=(1200, 16)).astype(np.float32)
    candidates = Candidates(interactions, content, np.arange(3, 1200), 40)
    expected = ridge.solve(candidates, [setting], threads=1, most=20)[setting]
    killer = Killer(two, monkeypatch)
    columns = ridge.solve_by(Cluster(two.client).map_shared, candidates, setting, 20)
    assert killer.dead, "a worker was killed at work"
    for ours, theirs in zip(columns, expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_what_parts_share_does_not_travel_with_each_part(two: DaskCluster) -> None:
    before = two.client.run(arrivals)
    assert list(Cluster(two.client).map_shared(times, Load(3), range(50))) == [3 * part for part in range(50)]
    # Once; and again where Dask, which looks every two seconds, took it from a worker that had nothing to do.
    assert all(count - before[worker] <= 5 for worker, count in two.client.run(arrivals).items())


def test_what_parts_share_outlives_every_worker(two: DaskCluster) -> None:
    results = Cluster(two.client).map_shared(times, Load(3), range(50))
    first = next(results)
    two.kill(two.workers())
    while two.workers():
        pass
    two.fill()
    assert [first, *results] == [3 * part for part in range(50)]


def test_a_worker_that_leaves_while_it_gets_a_copy_is_waited_for_by_nobody(
    two: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replicate(_: object) -> None:
        raise AssertionError  # as Dask does where the only one that holds it dies

    monkeypatch.setattr(two.client, "replicate", replicate)
    assert list(Cluster(two.client).map_shared(operator.add, 1, range(4))) == [1, 2, 3, 4]


def test_a_client_that_gave_up_looking_for_the_scheduler_says_what_was_lost(two: DaskCluster) -> None:
    client = Client(two.address)
    cluster = Cluster(client)
    client.close()
    for lost in (cluster.map_shared(operator.add, 1, [1]), cluster.map(operator.neg, [(1, (1,))])):
        with pytest.raises(ClusterError, match=r"scheduler at .* was lost"):
            next(lost)


def test_results_come_in_order_and_tasks_are_taken_as_they_are_needed(two: DaskCluster) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[tuple[int, tuple[int, int] | None]]:
        for n in range(40):
            taken.append(n)
            yield n, None if n % 3 == 0 else (n, 2)

    results = Cluster(two.client).map(operator.mul, tasks())
    assert next(results) == (0, None)
    assert len(taken) <= 1 + clusters.AHEAD * 2
    assert list(results) == [(n, None if n % 3 == 0 else 2 * n) for n in range(1, 40)]


def test_a_worker_with_another_model_is_refused(two: DaskCluster) -> None:
    spec = EncoderSpec(kind="sentence", model="offline:minilm")
    other = load.fingerprint(spec).model_copy(update={"weights": "0" * 64})
    fresh = iter([shards.FreshContents({"hash": "text"})])
    results = map_shards(Cluster(two.client), shards.encode, spec, other, fresh, shards.ShardVectors)
    with pytest.raises(UserError, match="has another 'offline:minilm' than the process that publishes"):
        list(results)


def test_a_worker_that_does_not_reach_the_store_says_what_it_misses(tmp_path: Path, two: DaskCluster) -> None:
    version = publish_feature(Store(tmp_path), "a", random_vectors(1, 20))
    away = version.model_copy(update={"path": "/nowhere/a.parquet"})
    layout = on_cluster.SearchSpec(str(tmp_path), {"a": away}, {"a": 1.0}, None, 3, 1024)
    with pytest.raises(UserError, match=r"finds no /nowhere/a.parquet.*use a store that all machines reach"):
        list(Cluster(two.client).map(on_cluster.search_part, [(None, (layout, []))]))


def test_a_run_that_lost_every_worker_ends_and_says_so(two: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "PATIENCE", 0.1)
    results = Cluster(two.client).map(operator.mul, ((n, (n, 2)) for n in range(100)))
    next(results)
    two.kill(two.client.nthreads())
    with pytest.raises(ClusterError, match=r"No worker at tcp://127\.0\.0\.1"):
        list(results)
    with pytest.raises(ClusterError, match=r"No worker at tcp://127\.0\.0\.1"):
        Cluster(two.client).check()


def test_a_run_that_lost_the_scheduler_ends_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as own:
        own.fill()
        results = Cluster(own.client).map(operator.mul, ((n, (n, 2)) for n in range(100)))
        next(results)
        own.kill_scheduler()
        with pytest.raises(ClusterError, match=r"The scheduler at .* was lost"):
            list(results)


def test_parts_of_a_schedule_are_all_of_it_once_and_about_equal() -> None:
    pairs = [Pairs(block, np.arange(block, 40)) for block in range(40)]
    probes = [Probe(block, np.arange(5000 + 100 * block)) for block in range(40)]
    for schedule in (pairs, probes):
        parts = on_cluster.split(schedule, 4)
        assert [step.block for part in parts for step in part] == list(range(40))
        sizes = [sum(map(work, part)) for part in parts]
        assert len(parts) == 4
        assert max(sizes) < 1.3 * min(sizes)
    assert on_cluster.split([], 4) == []
