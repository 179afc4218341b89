"""Clusters of items with similar vectors in all features together (spherical k-means), kept from version to version."""

import hashlib
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cache import ShardCache
from pipeline.machine import threads
from pipeline.similarity.layout import FeatureMatrix, Layout
from pipeline.similarity.vectors import Floats, Ints
from pipeline.store import Store

ITEMS_PER_CLUSTER = 1000
TRAINING_PER_CLUSTER = 64
ROWS_AT_ONCE = 32768
SEED = 0
ROW_STEP, CENTRE_STEP = np.float32(2.0**-12), np.float32(2.0**-11)
"""Unit rows and centres are rounded to multiples of these before they are multiplied. The products are then multiples
of 2**-23 and their sums below 2, so float32 holds each sum exactly, in whatever order it is added up."""
OUTGROWN = 0.2
"""A partition is trained anew once the catalogue has grown or shrunk by more than this share since."""
KEPT = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("centres", pa.list_(pa.float32()), nullable=False),
        pa.field("clusters", pa.int32(), nullable=False),
        pa.field("compared", pa.int32(), nullable=False),
        pa.field("items", pa.int64(), nullable=False),
    ]
)


class Partition(NamedTuple):
    """Clusters, and with how many of them each item is compared.

    Attributes:
        centres: (clusters, sum of dims) unit centres.
        compared: clusters that each item is compared with, the nearest ones.
        items: number of items when it was trained.
    """

    centres: Floats
    compared: int
    items: int

    def suits(self, items: int) -> bool:
        """Whether a catalogue of this size may still be divided by it."""
        return abs(items - self.items) <= OUTGROWN * self.items


def keep(store: Store, partition: Partition) -> str:
    """Store it with finished work; returns its key, a hash of its content."""
    numbers = partition.centres.reshape(-1)
    sizes = len(partition.centres), partition.compared, partition.items
    key = hashlib.sha256(str(sizes).encode() + numbers.tobytes()).hexdigest()
    cache = ShardCache(store, "similarity", KEPT)
    if key not in cache:
        cache.append(pa.table([[key], [numbers], *([size] for size in sizes)], names=KEPT.names))
    return key


def kept(store: Store, key: str) -> Partition | None:
    """The partition of this key; None if finished work was deleted."""
    cache = ShardCache(store, "similarity", KEPT)
    if key not in cache:
        return None
    row = cache.lookup([key]).to_pylist()[0]
    centres = np.array(row["centres"], np.float32).reshape(row["clusters"], -1)
    return Partition(centres, row["compared"], row["items"])


def centroids(layout: Layout) -> Floats:
    """(clusters, sum of dims) unit centres of items with similar vectors in all features together."""
    count = max(len(layout) // ITEMS_PER_CLUSTER, 1)
    rng = np.random.default_rng(SEED)
    training = rng.choice(len(layout), min(len(layout), count * TRAINING_PER_CLUSTER), replace=False)
    sample = joint(layout, np.sort(training))
    faiss.omp_set_num_threads(threads())
    kmeans = faiss.Kmeans(sample.shape[1], count, niter=8, seed=SEED, spherical=True, min_points_per_centroid=1)
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, np.float32)


def nearest_clusters(layout: Layout, centres: Floats, positions: Ints, count: int) -> NDArray[np.int32]:
    """(len, count) clusters whose centres are nearest to each item, nearest first.

    An item's clusters depend on its vectors and the centres alone, not on which items it is asked for with:
    otherwise an item that an update keeps could lie in other clusters than when it was searched.
    """
    clusters = np.empty((len(positions), count), np.int32)
    across = torch.from_numpy(rounded(centres, CENTRE_STEP)).T
    for start in range(0, len(positions), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        similarity = torch.from_numpy(rounded(joint(layout, positions[part]), ROW_STEP)) @ across
        clusters[part] = similarity.topk(count, dim=1).indices.numpy()
    return clusters


def rounded(matrix: Floats, step: np.float32) -> Floats:
    """To multiples of `step`, a power of two."""
    steps: Floats = np.rint(matrix / step)
    return steps * step


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
