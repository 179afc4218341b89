"""Large catalogues: each item is compared with the items of the clusters nearest to it.

Items are laid out by cluster (spherical k-means on all features together). For a sample, the true neighbours are
computed; the clusters in which they lie tell how many clusters each item must be compared with to reach the wanted
recall by every feature. The recall is then measured on other items. Data without clusters is compared exactly.
"""

import logging
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from pipeline.similarity.edges import Neighbours
from pipeline.similarity.layout import FeatureMatrix, Layout
from pipeline.similarity.schedule import Probe, Schedule, exact_schedule
from pipeline.similarity.vectors import Floats, Ints
from schemas.similarity import FUSED, SimilarityConfig

logger = logging.getLogger(__name__)
ITEMS_PER_CLUSTER = 1000
TRAINING_PER_CLUSTER = 64
ROWS_AT_ONCE = 32768
NEARLY_ALL = 0.4
"""If items need more than this share of the clusters, all pairs are compared: one comparison then serves both items of
a pair, so the search is exact and costs little more."""
SEED = 0


def centroids(layout: Layout) -> Floats:
    """(clusters, sum of dims) unit centres of items with similar vectors in all features together."""
    count = max(len(layout) // ITEMS_PER_CLUSTER, 1)
    rng = np.random.default_rng(SEED)
    training = rng.choice(len(layout), min(len(layout), count * TRAINING_PER_CLUSTER), replace=False)
    sample = joint(layout, np.sort(training))
    kmeans = faiss.Kmeans(sample.shape[1], count, niter=8, seed=SEED, spherical=True, min_points_per_centroid=1)
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, np.float32)


def nearest_clusters(layout: Layout, centres: Floats, positions: Ints, count: int) -> NDArray[np.int32]:
    """(len, count) clusters whose centres are nearest to each item, nearest first."""
    clusters = np.empty((len(positions), count), np.int32)
    across = torch.from_numpy(centres).T
    for start in range(0, len(positions), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        similarity = torch.from_numpy(joint(layout, positions[part])) @ across
        clusters[part] = similarity.topk(count, dim=1).indices.numpy()
    return clusters


def joint(layout: Layout, positions: Ints) -> Floats:
    """(len, sum of dims) unit rows whose dot product is the fused similarity of items that have all features."""
    total = sum(feature.weight for feature in layout.features) or 1.0
    parts = [unit(feature, positions) * np.float32((feature.weight / total) ** 0.5) for feature in layout.features]
    rows: Floats = np.concatenate(parts, axis=1)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= np.maximum(lengths, np.float32(1e-12))[:, None]
    return rows


def unit(feature: FeatureMatrix, positions: Ints) -> Floats:
    """(len, dim) rows of length 1, zero where the item lacks the feature."""
    row = feature.row[positions]
    rows = np.zeros((len(positions), feature.matrix.shape[1]), np.float32)
    rows[row >= 0] = feature.matrix[row[row >= 0]] / feature.norm[row[row >= 0], None]
    return rows


class Reach:
    """How many clusters each item is compared with, and the recall that results.

    Args:
        layout: by cluster: `layout.group` is the one whose centre is nearest.
        centres: see `centroids`.

    Attributes:
        compared: clusters that each item is compared with, the nearest ones.
        exact: whether all pairs are compared instead.
    """

    def __init__(self, layout: Layout, centres: Floats, config: SimilarityConfig, k: int) -> None:
        self.layout, self.centres, self.k = layout, centres, k
        rng = np.random.default_rng(SEED)
        self.items = np.flatnonzero(layout.pattern > 0)
        self.sample = np.sort(rng.choice(self.items, min(len(self.items), 2 * config.recall_sample), replace=False))
        self.truth = [sample_neighbours(layout, c, self.sample, k) for c in range(_channels(layout))]
        choosing = np.arange(len(self.sample)) % 2 == 0
        self.checking = ~choosing
        self.target = config.recall_target
        by_nearness = nearest_clusters(layout, centres, self.sample, len(centres))
        places = np.argsort(by_nearness, axis=1)
        self.compared = max(self._needed(truth, places, choosing) for truth in self.truth)
        self.exact = self.compared > NEARLY_ALL * len(centres)

    def schedule(self, bounds: Ints) -> Schedule:
        """Each item with the clusters nearest to it: first its own, so that its cut is high when the others follow.

        Args:
            bounds: of the search's blocks.
        """
        if self.exact:
            return exact_schedule(bounds, len(self.layout))
        clusters = nearest_clusters(self.layout, self.centres, self.items, self.compared)
        shape = (len(self.items), len(self.centres))
        ends = np.arange(len(self.items) + 1, dtype=np.int64) * self.compared
        flags = np.ones(clusters.size, bool)
        by_cluster = sparse.csr_array((flags, clusters.reshape(-1), ends), shape=shape).tocsc()
        own, others = [], []
        for block, cluster in enumerate(self.layout.group[bounds[:-1]].tolist()):
            near = self.items[by_cluster.indices[by_cluster.indptr[cluster] : by_cluster.indptr[cluster + 1]]]
            home = self.layout.group[near] == cluster
            own.append(Probe(block, near[home]))
            others.append(Probe(block, near[~home]))
        return own + others

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

        It is measured on the half of the sample that did not decide `compared`. A neighbour as near as the k-th true
        one counts: ties are as good.
        """
        checked = self.sample[self.checking]
        shares = []
        for (_, values), ours in zip(self.truth, edges, strict=True):
            truth = values[self.checking]
            real = np.isfinite(truth)
            kth = np.where(real, truth, np.inf).min(axis=1) - 1e-5
            first, last = (np.searchsorted(ours.rows, checked, side=side) for side in ("left", "right"))
            good = [int((ours.values[a:b] >= cut).sum()) for a, b, cut in zip(first, last, kth, strict=True)]
            wanted = real.sum(axis=1)
            shares.append(float(np.minimum(good, wanted).sum() / max(wanted.sum(), 1)))
        return shares

    def _needed(self, truth: tuple[Ints, Floats], places: Ints, choosing: NDArray[np.bool_]) -> int:
        """The fewest nearest clusters that hold the wanted share of the true neighbours.

        Args:
            places: (sample, clusters) place of each cluster among the item's nearest.
        """
        positions, values = truth
        real = np.isfinite(values) & choosing[:, None]
        item = np.broadcast_to(np.arange(len(positions))[:, None], positions.shape)[real]
        ranks = np.sort(places[item, self.layout.group[positions[real]]])
        return int(ranks[min(int(np.ceil(self.target * len(ranks))), len(ranks) - 1)]) + 1 if len(ranks) else 1


def sample_neighbours(layout: Layout, channel: int, sample: Ints, k: int) -> tuple[Ints, Floats]:
    """(sample, k) positions and similarities of the k true nearest by a channel; -inf where there are fewer items."""
    best = torch.full((len(sample), k), -torch.inf)
    where = torch.zeros((len(sample), k), dtype=torch.int64)
    for start in range(0, len(layout), ROWS_AT_ONCE):
        part = np.arange(start, min(start + ROWS_AT_ONCE, len(layout)))
        similarity = _similarity(layout, channel, sample, part)
        similarity[sample[:, None] == part[None, :]] = -torch.inf
        values = torch.cat([best, similarity], dim=1)
        places = torch.cat([where, torch.from_numpy(part).expand(len(sample), -1)], dim=1)
        best, chosen = values.topk(k, dim=1)
        where = places.gather(1, chosen)
    return where.numpy(), best.numpy()


def _similarity(layout: Layout, channel: int, rows: Ints, columns: Ints) -> torch.Tensor:
    """(rows, columns) similarity by a channel in float32; -inf where undefined."""
    chosen = layout.features[channel : channel + 1] or layout.features
    total, weight = torch.zeros(len(rows), len(columns)), torch.zeros(len(rows), len(columns))
    for feature in chosen:
        share = feature.weight if len(chosen) > 1 else 1.0
        present = [torch.from_numpy((feature.row[side] >= 0).astype(np.float32)) for side in (rows, columns)]
        total += share * (torch.from_numpy(unit(feature, rows)) @ torch.from_numpy(unit(feature, columns)).T)
        weight += share * torch.outer(*present)
    return torch.where(weight > 0, total / weight, -torch.inf)


def _channels(layout: Layout) -> int:
    return len(layout.features) + (len(layout.features) > 1)
