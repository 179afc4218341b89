"""Stage: vectors of one feature for every item, encoded once per (content, encoder) and never again.

The source is read in shards; what the cache does not hold is encoded and kept shard by shard, so a killed run loses at
most the shard it was working on, and of pictures the batches already begun of the next. Batches never cross a shard and
depend only on what earlier shards held, so an interrupted run ends with the same bytes as an unbroken one.
"""

import json
import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline import contents
from pipeline.cache import ShardCache
from pipeline.cluster import Cluster
from pipeline.contents import Shard, content_hash
from pipeline.encoders import load
from pipeline.encoders.base import Encoder, Fingerprint, Vectors
from pipeline.encoders.on_cluster import map_shards
from pipeline.features.columns import fixed_width_from
from pipeline.features.shards import ShardEncoder, ShardVectors, encode
from pipeline.progress import track
from pipeline.published import Counts, Published
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import features

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
TEXT_SHARD = 1024
IMAGE_SHARD = 256
"""Contents read, encoded, kept and forgotten together: bounds memory, and what a kill can lose."""
CACHED = pa.schema(
    [pa.field("content_hash", pa.string(), nullable=False), pa.field("embedding", pa.list_(pa.float32()))]
)
COUNTED = ("encoded", "reused", "missing", "unreadable", "pooled")


def run(
    *,
    store: Store,
    source: TableVersion,
    name: str,
    spec: EncoderSpec,
    encoder: Encoder | None = None,
    gallery: TableVersion | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish `features/<name>`, one row per item in the source's order; or find the version of equal input.

    Counts contents (the texts or pictures of the source): `encoded` (went through the model), `reused` (encoded before,
    or equal to another) and `unreadable` (stored, but refused by the encoder: the table's `error` says why). Counts
    items: `missing` the modality, or `pooled` (their vector is the mean over several pictures).

    Args:
        source: `items` for text encoders, `images` for image encoders, `captions` for the caption feature.
        gallery: further pictures of the items in `images`. A vector is then the mean over all readable pictures of the
            item, scaled to length 1 again if `spec.normalize` says so.
        encoder: used in this process instead of the one `spec` names; its fingerprint identifies the vectors.
        cluster: its workers encode, each with a copy of the model.

    Raises:
        UserError: the model is missing or damaged, does not fit the source, or gives NaN or infinity; or a worker has
            another model.
        ClusterError: the cluster was lost.
    """
    _check_sources(source, gallery, spec)
    identity = encoder.fingerprint if encoder is not None else load.fingerprint(spec)
    lineage = _lineage(source, gallery, name, identity)
    if (version := store.find(lineage)) is not None:
        logger.info("features/%s: version %s is already published, nothing to encode", name, version.version)
        return Published({version.table: version}, {"reused": version.rows})
    work = _Work(store, spec, identity, encoder)
    with (
        store.writer(features(work.dim), lineage) as writer,
        track(f"features/{name}", total=source.rows, part="shard") as advance,
    ):
        size = TEXT_SHARD if spec.modality == "text" else IMAGE_SHARD
        shards = contents.shards(store, source, work.cache, size=size, gallery=gallery)
        for shard in work.encoded(shards, cluster if encoder is None else None):
            writer.write(work.table(shard))
            advance(len(shard.hashes))
    summary = "features/%s: %d encoded, %d reused, %d missing, %d unreadable; %d items of several pictures"
    logger.info(summary, name, *(work.counts[count] for count in COUNTED))
    return Published({writer.version.table: writer.version}, work.counts)


def _check_sources(source: TableVersion, gallery: TableVersion | None, spec: EncoderSpec) -> None:
    sources = ("images",) if spec.modality == "image" else ("items", "captions")
    if source.table not in sources:
        raise UserError(
            f"An encoder of kind {spec.kind!r} reads {' or '.join(sources)}, but was given the table {source.table!r}. "
            "Choose another kind, or give it the right table."
        )
    if gallery is not None and (gallery.table, source.table) != ("gallery", "images"):
        raise UserError(
            f"A table 'gallery' adds to the table 'images', but was given {gallery.table!r} beside {source.table!r}."
        )


def _lineage(source: TableVersion, gallery: TableVersion | None, name: str, identity: Fingerprint) -> Lineage:
    config = identity.model_dump(exclude={"model", "revision"})
    inputs = {source.table: source.version}
    if gallery is not None:
        config["pictures"] = json.loads(gallery.lineage["cm3.config"]).get("pictures")
        inputs[gallery.table] = gallery.version
    return Lineage(
        dataset=source.dataset,
        table=f"features/{name}",
        stage="features",
        stage_version=STAGE_VERSION,
        config=config,
        inputs=inputs,
        encoder=identity.model,
        revision=identity.revision,
    )


class _Work:
    """Cache, encoder and counts of one run; the encoder is loaded when the first new content comes."""

    def __init__(self, store: Store, spec: EncoderSpec, identity: Fingerprint, encoder: Encoder | None) -> None:
        self.counts: Counts = dict.fromkeys(COUNTED, 0)
        self._refused: dict[str, str] = {}
        self._spec, self._identity = spec, identity
        self._encoder = ShardEncoder(spec, encoder)
        namespace = f"features/{identity.kind}-{identity.key()[:16]}"
        self.cache = ShardCache(store, namespace, CACHED)
        self.dim = self._dim(store, f"_cache/{namespace}/encoder.json", identity)

    def encoded(self, shards: Iterator[Shard], cluster: Cluster | None) -> Iterator[Shard]:
        """The same shards, each yielded when the cache holds all of its readable contents."""
        if cluster:
            results = map_shards(cluster, encode, self._spec, self._identity, shards, ShardVectors)
        else:
            results = self._encoder.run(shards)
        for shard, vectors in results:
            for key, reason in vectors.refused.items():
                logger.warning("item %s: the stored picture cannot be read: %s", shard.owner(key), reason)
            self._refused |= vectors.refused
            if vectors.rows is not None:
                self._keep(shard, vectors.keys, vectors.rows)
            yield shard

    def table(self, shard: Shard) -> pa.Table:
        """Rows of the published table, in the shard's order."""
        refused = [next((self._refused[key] for key in mine if key in self._refused), None) for mine in shard.hashes]
        hashes = [[key for key in mine if key not in self._refused] for mine in shard.hashes]
        readable = [len(mine) for mine in hashes]
        self.counts["missing"] += sum(not mine for mine in shard.hashes)
        self.counts["unreadable"] += sum(map(len, shard.hashes)) - sum(readable)
        self.counts["reused"] += sum(readable) - sum(key not in self._refused for key in shard.fresh)
        self.counts["pooled"] += sum(count > 1 for count in readable)
        embeddings = self.cache.lookup([key for mine in hashes for key in mine])["embedding"].combine_chunks()
        rows = embeddings.flatten().to_numpy().reshape(-1, self.dim)
        columns = [
            shard.item_ids,
            pa.array([_hash_of_all(mine) for mine in hashes], pa.string()),
            _means(rows, np.array(readable), normalize=self._spec.normalize),
            pa.array(refused, pa.string()),
        ]
        return pa.table(columns, schema=features(self.dim))

    def _keep(self, shard: Shard, keys: list[str], rows: Vectors) -> None:
        if rows.shape != (len(keys), self.dim):
            raise UserError(
                f"{self._spec.model!r} gave an array of shape {rows.shape} for {len(keys)} items of width {self.dim}. "
                "The encoder does not follow its Protocol."
            )
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            items = [shard.owner(keys[i]) for i in np.flatnonzero(~finite)[:3]]
            raise UserError(
                f"{self._spec.model!r} gave NaN or infinity for {int((~finite).sum())} items, among them "
                f"{', '.join(items)}. Look at their content; with dtype=float32 the model may cope."
            )
        self.cache.append(pa.table([pa.array(keys), fixed_width_from(rows).cast(CACHED.field(1).type)], schema=CACHED))
        self.counts["encoded"] += len(keys)

    def _dim(self, store: Store, path: str, identity: Fingerprint) -> int:
        """Width of the vectors, stored beside the cache, so that a run without new content loads no model."""
        full = f"{store.root}/{path}"
        if store.fs.exists(full):
            return int(json.loads(store.fs.cat_file(full))["dim"])
        dim = self._encoder.encoder.dim
        store.put(path, json.dumps({"dim": dim, "encoder": identity.model_dump()}, indent=2).encode())
        return dim


def _hash_of_all(hashes: list[str]) -> str | None:
    """The hash of a single content; for several, the hash of their hashes, one per line; None for none."""
    return hashes[0] if len(hashes) == 1 else content_hash("\n".join(hashes)) if hashes else None


def _means(rows: Vectors, counts: np.ndarray, *, normalize: bool) -> pa.FixedSizeListArray:
    """One vector per item, from its `counts` rows: null from none, the row itself from one, the mean from several."""
    some = counts > 0
    means = np.zeros((len(counts), rows.shape[1]))
    means[some] = np.add.reduceat(rows, (np.cumsum(counts) - counts)[some], axis=0, dtype=np.float64)
    means[some] /= counts[some, None]
    if normalize:
        several = counts > 1
        lengths = np.linalg.norm(means[several], axis=1, keepdims=True)
        means[several] /= np.where(lengths > 0, lengths, 1)
    return fixed_width_from(means.astype(np.float32), missing=~some)
