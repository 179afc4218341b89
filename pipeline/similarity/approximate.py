"""Large catalogues: each item is compared with the items of the clusters nearest to it.

Items are laid out by cluster. For a sample, the true neighbours are computed; the clusters in which they lie tell how
many clusters each item must be compared with to reach the wanted recall by every feature. The recall is then measured
on other items. Data without clusters is compared exactly.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.similarity.edges import Neighbours
from pipeline.similarity.partition import SEED, nearest_clusters
from pipeline.similarity.schedule import Probe, Schedule, exact_schedule
from pipeline.similarity.search import Search
from pipeline.similarity.vectors import Floats, Ints
from schemas.similarity import FUSED, SimilarityConfig

logger = logging.getLogger(__name__)
NEARLY_ALL = 0.4
"""If items need more than this share of the clusters, all pairs are compared: one comparison then serves both items of
a pair, so the search is exact and costs little more."""


def groups(clusters: Ints, changed: NDArray[np.bool_]) -> Ints:
    """Where to lay items out: by cluster, in each those that changed before those that did not."""
    return 2 * clusters + ~changed


class Reach:
    """How many clusters each item is compared with, and the recall that results.

    Args:
        search: on items laid out by `groups`, not begun; the sample's true neighbours are searched with it.
        centres: of the clusters.
        near: (n, some) clusters nearest to each item, nearest first.
        compared: with how many clusters each item is compared, where that is decided.

    Attributes:
        compared: clusters that each item is compared with, the nearest ones.
        exact: whether all pairs are compared instead.
    """

    def __init__(
        self,
        search: Search,
        centres: Floats,
        near: NDArray[np.int32],
        config: SimilarityConfig,
        compared: int | None = None,
    ) -> None:
        self.layout, self.bounds, self.centres, self.near = search.layout, search.bounds, centres, near
        self.cluster = self.layout.group // 2
        self.target = config.recall_target
        self.items = np.flatnonzero(self.layout.pattern > 0)
        size = config.recall_sample * (2 if compared is None else 1)
        rng = np.random.default_rng(SEED)
        sample = np.sort(rng.choice(self.items, min(len(self.items), size), replace=False))
        self.truth = [edges.select(np.isin(edges.rows, sample)) for edges in search.nearest_of(sample)]
        self.checked = sample if compared is not None else sample[1::2]
        self.compared = compared or self._needed(sample[::2])
        self.exact = self.compared > NEARLY_ALL * len(centres)

    def schedule(self, searched: NDArray[np.bool_]) -> Schedule:
        """Each item with the clusters nearest to it: first its own, so that its cut is high when the others follow.

        Args:
            searched: (n,) which items to compare with all items of these clusters; the others are compared with those
                that changed.
        """
        if self.exact:
            return exact_schedule(self.bounds, len(self.layout))
        clusters = self.near[self.items, : self.compared]
        if clusters.shape[1] < self.compared:
            clusters = nearest_clusters(self.layout, self.centres, self.items, self.compared)
        shape = (len(self.items), len(self.centres))
        ends = np.arange(len(self.items) + 1, dtype=np.int64) * self.compared
        flags = np.ones(clusters.size, bool)
        by_cluster = sparse.csr_array((flags, clusters.reshape(-1), ends), shape=shape).tocsc()
        own, others = [], []
        for block, group in enumerate(self.layout.group[self.bounds[:-1]].tolist()):
            cluster, unchanged = divmod(group, 2)
            near = self.items[by_cluster.indices[by_cluster.indptr[cluster] : by_cluster.indptr[cluster + 1]]]
            near = near[searched[near]] if unchanged else near
            home = self.cluster[near] == cluster
            own.append(Probe(block, near[home]))
            others.append(Probe(block, near[~home]))
        return [step for step in own + others if len(step.rows)]

    def report(self, edges: Sequence[Neighbours]) -> dict[str, Any]:
        """What goes into the table's metadata."""
        names = [feature.name for feature in self.layout.features]
        recall = dict(zip([*names, FUSED], (round(share, 4) for share in self.recall(edges)), strict=False))
        for name, share in recall.items():
            if share < self.target:
                logger.warning("similarity: recall by %s is %.3f, below the target of %.3f", name, share, self.target)
        compared = len(self.centres) if self.exact else self.compared
        return {"exact": self.exact, "recall": recall, "clusters": len(self.centres), "compared": compared}

    def recall(self, edges: Sequence[Neighbours]) -> list[float]:
        """By channel, the share of true neighbours among the edges.

        It is measured on items that did not decide `compared`. A neighbour as near as the farthest true one counts:
        ties are as good. 1 where there is nothing to find, as by a feature that none of these items has.
        """
        shares = []
        for truth, ours in zip(self.truth, edges, strict=True):
            true_first, true_last = (np.searchsorted(truth.rows, self.checked, side=side) for side in ("left", "right"))
            first, last = (np.searchsorted(ours.rows, self.checked, side=side) for side in ("left", "right"))
            wanted = true_last - true_first
            kth = [truth.values[stop - 1] if count else np.inf for stop, count in zip(true_last, wanted, strict=True)]
            good = [int((ours.values[a:b] >= cut).sum()) for a, b, cut in zip(first, last, kth, strict=True)]
            shares.append(float(np.minimum(good, wanted).sum() / wanted.sum()) if wanted.any() else 1.0)
        return shares

    def _needed(self, sample: Ints) -> int:
        """The fewest nearest clusters that hold the wanted share of the sample's true neighbours, by every channel."""
        by_nearness = nearest_clusters(self.layout, self.centres, sample, len(self.centres))
        nearness = np.argsort(by_nearness, axis=1)
        return max(self._needed_by(truth, sample, nearness) for truth in self.truth)

    def _needed_by(self, truth: Neighbours, sample: Ints, nearness: NDArray[np.int64]) -> int:
        """By one channel.

        Args:
            nearness: (sample, clusters) place of each cluster among the item's nearest.
        """
        edges = truth.select(np.isin(truth.rows, sample))
        ranks = np.sort(nearness[np.searchsorted(sample, edges.rows), self.cluster[edges.columns]])
        return int(ranks[min(int(np.ceil(self.target * len(ranks))), len(ranks) - 1)]) + 1 if len(ranks) else 1
