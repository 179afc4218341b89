"""The comparisons of one search, shared out among the workers of a cluster.

Each worker lays the items out as this process did, from the same published features, and compares some blocks; its
exact top k are merged with the others'. The k nearest of all are among the k nearest of each part, and scores are the
same bits everywhere, so the graph is the same whoever computes it.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster import Cluster
from pipeline.machine import use_threads
from pipeline.progress import track
from pipeline.similarity.candidates import top_k
from pipeline.similarity.layout import Ints, assemble, read
from pipeline.similarity.search import Neighbours, Schedule, Search, work
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json

PARTS = 4
"""Parts for each worker: what one that dies has to be computed again is a quarter of its share."""

Edges = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Layout:
    """What decides where an item stands, and what is searched.

    Attributes:
        group: of each item, as `assemble` takes it.
        block: items in a block; the schedule counts in them, and a worker's own device may prefer another size.
    """

    store: str
    features: Mapping[str, TableVersion]
    weights: Mapping[str, float]
    group: Ints | None
    k: int
    block: int

    def key(self) -> str:
        """Equal for equal layouts."""
        versions = {name: version.key for name, version in self.features.items()}
        described = canonical_json([self.store, versions, dict(self.weights), self.k, self.block])
        group = b"" if self.group is None else self.group.tobytes()
        return hashlib.sha256(described.encode() + group).hexdigest()


@dataclass(frozen=True)
class Elsewhere:
    """A cluster, and the published features its workers can read."""

    cluster: Cluster
    store: Store
    features: Mapping[str, TableVersion]
    weights: Mapping[str, float]

    def run(self, search: Search, schedule: Schedule, group: Ints | None = None) -> list[Neighbours]:
        """As `search.run(schedule)`, computed by the workers.

        Args:
            group: with which `search`'s catalogue was assembled.

        Raises:
            UserError: a worker cannot read the store, or the cluster was lost.
        """
        layout = Layout(self.store.uri, self.features, self.weights, group, search.k, search.block)
        parts = split(schedule, PARTS * self.cluster.slots())
        found = [Neighbours(*_empty()) for _ in search.channels]
        order, k = search.catalogue.order, search.k
        with track("similarity", total=len(parts), unit="shards", part="shard") as advance:
            for _, part in self.cluster.map(search_part, ((None, (layout, part)) for part in parts)):
                found = [_merged(known, edges, order, k) for known, edges in zip(found, part, strict=True)]
                advance(1)
        return found


def split(schedule: Schedule, parts: int) -> list[Schedule]:
    """Runs of the schedule, about equal in comparisons, at most so many."""
    ends = np.cumsum([work(step) for step in schedule])
    places = (ends - 1) * parts // max(int(ends[-1]) if len(ends) else 1, 1)
    return [[entry for entry, at in zip(schedule, places, strict=True) if at == place] for place in np.unique(places)]


def search_part(layout: Layout, part: Schedule) -> list[Edges]:
    """The k nearest by each channel among the pairs of one part, on a worker."""
    with _Kept.lock:
        search = _Kept.take(layout)
        found = search.run(part)
        _Kept.put(layout, search)
    return [(e.rows.astype(np.int32), e.columns.astype(np.int32), e.values) for e in found]


class _Kept:
    """A worker's search, kept from part to part while all goes well.

    What an item's k-th nearest was in one part prunes the next: dropped is only what k others surpass, and whoever
    compares those finds them.
    """

    lock = threading.Lock()
    _key = ""
    _search: Search | None = None

    @classmethod
    def take(cls, layout: Layout) -> Search:
        """The search of this layout; the last one's memory is freed before another is made."""
        search, cls._search = cls._search, None
        if search is not None and cls._key == layout.key():
            return search
        del search
        use_threads()
        store = Store(layout.store)
        raw = {name: read(store, _visible(store, layout.features[name])) for name in sorted(layout.features)}
        return Search(assemble(raw, layout.weights, layout.group), layout.k, layout.block)

    @classmethod
    def put(cls, layout: Layout, search: Search) -> None:
        """Keep it for the next part."""
        cls._key, cls._search = layout.key(), search


def _visible(store: Store, version: TableVersion) -> TableVersion:
    if not store.fs.exists(store.inside(version.path)):
        raise UserError(
            f"A worker of the cluster finds no {version.path}. The similarity graph is computed from the published "
            "features: use a store that all machines reach, such as s3://, or compute without the cluster."
        )
    return version


def _merged(known: Neighbours, part: Edges, order: Ints, k: int) -> Neighbours:
    rows, columns = (
        np.concatenate([a, b.astype(np.int64)]) for a, b in zip((known.rows, known.columns), part[:2], strict=True)
    )
    return Neighbours(*top_k(rows, columns, np.concatenate([known.values, part[2]]), order, k))


def _empty() -> tuple[Ints, Ints, NDArray[np.float32]]:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
