"""The comparisons of one search, shared among the workers of a cluster.

Each worker lays the items out as this process did, from the same published features, and compares some blocks; its
exact top k are merged with those of the others. The k nearest of all are among the k nearest of each part, and scores
have the same bits everywhere, so the graph does not depend on who computes it.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.cluster import Cluster
from pipeline.machine import use_threads
from pipeline.progress import track
from pipeline.similarity.edges import Neighbours, concatenate, top_k
from pipeline.similarity.layout import assemble
from pipeline.similarity.schedule import Schedule, work
from pipeline.similarity.search import Search
from pipeline.similarity.vectors import Ints, read
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json

PARTS = 4
"""Parts per thread of a worker: if one dies, about a quarter of its share is computed again."""


@dataclass(frozen=True)
class SearchSpec:
    """What a worker needs to make the same search as this process.

    Attributes:
        group: of each item, as `assemble` takes it.
        block: items per block, in which the schedule counts; a worker's own device may prefer another size.
    """

    store: str
    features: Mapping[str, TableVersion]
    weights: Mapping[str, float]
    group: Ints | None
    k: int
    block: int

    def key(self) -> str:
        """Equal for equal searches."""
        versions = {name: version.key for name, version in self.features.items()}
        described = canonical_json([self.store, versions, dict(self.weights), self.k, self.block])
        group = b"" if self.group is None else self.group.tobytes()
        return hashlib.sha256(described.encode() + group).hexdigest()


@dataclass(frozen=True)
class ClusterSearch:
    """A cluster that makes comparisons, and the published features that its workers read."""

    cluster: Cluster
    store: Store
    features: Mapping[str, TableVersion]
    weights: Mapping[str, float]

    def run(self, search: Search, schedule: Schedule, group: Ints | None = None) -> list[Neighbours]:
        """As `search.run(schedule)`, computed by the workers.

        Args:
            group: with which the search's layout was assembled.

        Raises:
            UserError: a worker cannot read the store, or the cluster was lost.
        """
        spec = SearchSpec(self.store.uri, self.features, self.weights, group, search.k, search.block)
        parts = split(schedule, PARTS * self.cluster.slots())
        edges = [concatenate([]) for _ in search.channels]
        order, k = search.layout.order, search.k
        with track("similarity", total=len(parts), unit="shards", part="shard") as advance:
            for _, part in self.cluster.map(search_part, ((None, (spec, part)) for part in parts)):
                edges = [top_k(concatenate(both), order, k) for both in zip(edges, part, strict=True)]
                advance(1)
        return edges


def split(schedule: Schedule, parts: int) -> list[Schedule]:
    """The schedule in at most `parts` runs of steps, with about equal work."""
    ends = np.cumsum([work(step) for step in schedule])
    places = (ends - 1) * parts // max(int(ends[-1]) if len(ends) else 1, 1)
    return [[step for step, at in zip(schedule, places, strict=True) if at == place] for place in np.unique(places)]


def search_part(spec: SearchSpec, part: Schedule) -> list[Neighbours]:
    """The k nearest by each channel among the pairs of one part, on a worker; packed."""
    with _LastSearch.lock:
        search = _LastSearch.take(spec)
        edges = search.run(part)
        _LastSearch.put(spec, search)
    return [channel.packed() for channel in edges]


class _LastSearch:
    """A worker's search, kept from part to part; taken out while it runs, so that a failed one is not used again.

    An item's k-th nearest in one part prunes the next. A part drops a pair only if k better ones beat it; those are
    found by the part that compares them.
    """

    lock = threading.Lock()
    _key = ""
    _search: Search | None = None

    @classmethod
    def take(cls, spec: SearchSpec) -> Search:
        """The search that `spec` describes; the memory of another one is freed before it is made."""
        search, cls._search = cls._search, None
        if search is not None and cls._key == spec.key():
            return search
        del search
        use_threads()
        store = Store(spec.store)
        vectors = {name: read(store, _visible(store, spec.features[name])) for name in sorted(spec.features)}
        return Search(assemble(vectors, spec.weights, spec.group), spec.k, spec.block)

    @classmethod
    def put(cls, spec: SearchSpec, search: Search) -> None:
        """Keep it for the next part."""
        cls._key, cls._search = spec.key(), search


def _visible(store: Store, version: TableVersion) -> TableVersion:
    if not store.fs.exists(store.inside(version.path)):
        raise UserError(
            f"A worker of the cluster finds no {version.path}. The similarity graph is computed from the published "
            "features: use a store that all machines reach, such as s3://, or compute without the cluster."
        )
    return version
