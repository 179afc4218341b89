"""Stage: vectors of one feature for every item, encoded once per (content, encoder) and never again.

The source is read in shards; what the cache does not hold is encoded and kept shard by shard, so a killed run loses at
most the shard it was working on, and of pictures the batches already begun of the next. Batches never cross a shard and
depend only on what earlier shards held, so an interrupted run ends with the same bytes as an unbroken one.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline import contents
from pipeline.cluster import Cluster
from pipeline.contents import Shard, hash_of_all
from pipeline.encoders import load
from pipeline.encoders.base import Encoder, Fingerprint, Vectors, means
from pipeline.encoders.on_cluster import S, map_shards
from pipeline.features.columns import fixed_width_from
from pipeline.features.kept import Kept, check_width
from pipeline.features.shards import FreshContents, ShardEncoder, ShardVectors, encode, rest_of
from pipeline.progress import track
from pipeline.published import Counts, Published
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import features

logger = logging.getLogger(__name__)

STAGE_VERSION = 3
TEXT_SHARD = 1024
IMAGE_SHARD = 256
"""Contents read, encoded, kept and forgotten together: bounds memory, and what a kill can lose."""
COUNTED = ("encoded", "reused", "missing", "unreadable", "pooled")
ASKED = ("tokens_in", "cost")


def run(
    *,
    store: Store,
    source: TableVersion,
    name: str,
    spec: EncoderSpec,
    encoder: Encoder | None = None,
    images: TableVersion | None = None,
    gallery: TableVersion | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish `features/<name>`, one row per item in the source's order; or find the version of equal input.

    Counts contents (the texts or pictures of the source, or items encoded from both): `encoded` (went through the
    model), `reused` (encoded before, or equal to another) and `unreadable` (stored, but refused by the encoder: the
    table's `error` says why). Counts items: `missing` the modality, `pooled` (their vector is the mean over several
    pictures) or `cut` (their text is longer than the model reads). Of an endpoint also `tokens_in` as it counted them,
    and `cost` by the price in the spec.

    What an endpoint gave no vector of is a row with the reason; the next run asks for it again.

    Args:
        source: `items` for text encoders, `images` for image encoders, `captions` for the caption feature.
        images: main pictures of the items in `items`, for a multimodal encoder: an item's vector is then that of all
            its parts together. A picture that cannot be read is left out.
        gallery: further pictures of the items in `images`. A vector of pictures alone is then the mean over all
            readable pictures of the item, scaled to length 1 again if `spec.normalize` says so.
        encoder: used in this process instead of the one `spec` names; its fingerprint identifies the vectors.
        cluster: its workers encode, each with a copy of the model.

    Raises:
        UserError: the model is missing or damaged, does not fit the source, or gives NaN or infinity; or a worker has
            another model.
        ClusterError: the cluster was lost.
    """
    _check_sources(source, images, gallery, spec)
    identity = encoder.fingerprint if encoder is not None else load.fingerprint(spec)
    described = partial(describe, source=source, images=images, gallery=gallery, name=name, identity=identity)
    lineage = described()
    if (version := store.find(lineage)) is not None:
        logger.info("features/%s: version %s is already published, nothing to encode", name, version.version)
        return Published({version.table: version}, {"reused": version.rows})
    work = _Work(store, spec, identity, encoder)
    size = TEXT_SHARD if spec.modality == "text" else IMAGE_SHARD

    def shards() -> Iterator[Shard]:
        return contents.shards(store, source, work.cache.held, size=size, images=images, gallery=gallery)

    with ExitStack() as stack:
        advance = stack.enter_context(track(f"features/{name}", total=source.rows, part="shard"))
        encoded = work.encoded(shards(), cluster if encoder is None else None)
        if spec.is_served:  # what it leaves unanswered is a part of the lineage, which a file begins with
            for shard in encoded:
                advance(len(shard.hashes))
            lineage = described(unanswered=work.refused)
            encoded = shards()
        writer = stack.enter_context(store.writer(work.schema, lineage))
        for shard in encoded:
            writer.write(work.table(shard))
            if not spec.is_served:
                advance(len(shard.hashes))
    summary = "features/%s: %d encoded, %d reused, %d missing, %d unreadable; %d items of several pictures"
    logger.info(summary, name, *(work.counts[count] for count in COUNTED))
    return Published({writer.version.table: writer.version}, work.counts)


def _check_sources(
    source: TableVersion, images: TableVersion | None, gallery: TableVersion | None, spec: EncoderSpec
) -> None:
    sources = {"text": ("items", "captions"), "image": ("images",), "multimodal": ("items",)}[spec.modality]
    if source.table not in sources:
        raise UserError(
            f"An encoder of kind {spec.kind!r} reads {' or '.join(sources)}, but was given the table {source.table!r}. "
            "Choose another kind, or give it the right table."
        )
    if (spec.modality == "multimodal") != (images is not None and images.table == "images"):
        raise UserError(
            f"An encoder of kind 'multimodal', and no other, reads the table 'images' beside 'items'; one of kind "
            f"{spec.kind!r} was given {images.table if images else 'no table'!r}."
        )
    pictures = images or source
    if gallery is not None and (gallery.table, pictures.table) != ("gallery", "images"):
        raise UserError(
            f"A table 'gallery' adds to the table 'images', but was given {gallery.table!r} beside {pictures.table!r}."
        )


def describe(
    *,
    source: TableVersion,
    name: str,
    identity: Fingerprint,
    images: TableVersion | None = None,
    gallery: TableVersion | None = None,
    unanswered: Collection[str] = (),
) -> Lineage:
    """What determines the table: the contents, the encoder, and which contents an endpoint left unanswered: the table
    is published without them, but the next run tries again."""
    config = identity.config()
    if unanswered:
        config["unanswered"] = hashlib.sha256("".join(sorted(unanswered)).encode()).hexdigest()
    inputs = {table.table: table.version for table in (source, images) if table is not None}
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
        license=identity.license,
    )


class _Work:
    """Cache, encoder and counts of one run; the encoder is loaded when the first new content comes."""

    def __init__(self, store: Store, spec: EncoderSpec, identity: Fingerprint, encoder: Encoder | None) -> None:
        self.counts: Counts = dict.fromkeys((*COUNTED, *(ASKED if spec.is_served else ())), 0)
        if spec.modality != "image":
            self.counts["cut"] = 0
        self.refused: dict[str, str] = {}
        self._refused_items: dict[str, str] = {}
        self._spec, self._identity = spec, identity
        self._kept = Kept(store, identity)
        self.cache = self._kept.cache
        self._encoder = ShardEncoder(spec, encoder)
        self.dim = self._dim()
        self.schema = features(self.dim, texts=spec.modality != "image")

    def encoded(self, shards: Iterator[Shard], cluster: Cluster | None) -> Iterator[Shard]:
        """The same shards, each yielded when the cache holds all of its readable contents. An endpoint is asked from
        this process."""
        for shard, vectors in self._made(shards, cluster):
            rest = rest_of(shard.fresh, vectors.refused)
            for key in {*self.cache.held(rest), *vectors.keys} & rest.keys():
                del rest[key]
            if rest:
                [(_, more)] = self._made(iter([FreshContents(rest)]), cluster)
                vectors = ShardVectors.concat([vectors, more])
            for key, reason in (*vectors.refused.items(), *vectors.refused_items.items()):
                logger.warning("item %s: a stored content has no vector: %s", shard.owner(key), reason)
            self.refused |= vectors.refused
            self._refused_items |= vectors.refused_items
            if self._spec.is_served:
                self.counts["tokens_in"] += vectors.tokens
                self.counts["cost"] += vectors.tokens * self._spec.price_in / 1e6
                if vectors.keys:
                    self._kept.add_asked(len(vectors.keys), vectors.seconds, vectors.tokens)
            if vectors.rows is not None:
                self._keep(shard, vectors.keys, vectors.rows, vectors.cut)
            yield shard

    def _made(self, shards: Iterator[S], cluster: Cluster | None) -> Iterator[tuple[S, ShardVectors]]:
        if cluster and not self._spec.is_served:
            return map_shards(cluster, encode, self._spec, self._identity, shards, ShardVectors)
        return self._encoder.run(shards)

    def table(self, shard: Shard) -> pa.Table:
        """Rows of the published table, in the shard's order."""
        refused = self.refused
        reasons = [[refused[key] for key in mine if key in refused] for mine in shard.hashes]
        hashes = [[key for key in mine if key not in refused] for mine in shard.hashes]
        if self._spec.modality == "multimodal":  # one content per item: all its parts
            refused = self._refused_items
            hashes = [[key] if (key := hash_of_all(mine)) else [] for mine in hashes]
            reasons = [
                why + [refused[key] for key in mine if key in refused]
                for why, mine in zip(reasons, hashes, strict=True)
            ]
            hashes = [[key for key in mine if key not in refused] for mine in hashes]
        counts = np.array([len(mine) for mine in hashes])
        self.counts["missing"] += sum(not mine for mine in shard.hashes)
        self.counts["unreadable"] += sum(map(len, reasons))
        self.counts["reused"] += int(counts.sum())
        self.counts["pooled"] += int((counts > 1).sum())
        rows, marks = self._kept.rows([key for mine in hashes for key in mine], self.dim)
        columns = [
            shard.item_ids,
            pa.array([hash_of_all(mine) for mine in hashes], pa.string()),
            fixed_width_from(means(rows, counts, normalize=self._spec.normalize), missing=counts == 0),
            pa.array([why[0] if why else None for why in reasons], pa.string()),
        ]
        if self._spec.modality != "image":  # one content per item
            cut = iter(marks)
            columns.append(pa.array([next(cut) if mine else None for mine in hashes], pa.bool_()))
            self.counts["cut"] += sum(bool(value) for value in columns[-1].to_pylist())
        return pa.table(columns, schema=self.schema)

    def _keep(self, shard: Shard, keys: list[str], rows: Vectors, cut: Sequence[bool | None] | None) -> None:
        if self._spec.is_served:
            check_width(self._spec, rows, self.dim)
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
        self._kept.add(keys, rows, cut)
        self.counts["encoded"] += len(keys)
        self.counts["reused"] -= len(keys)  # `table` counts every content that has a vector

    def _dim(self) -> int:
        """Width of the vectors, by the record; without one, by the model."""
        if (recorded := self._kept.dim) is not None:
            return recorded
        dim = self._encoder.encoder.dim
        self._kept.set_dim(dim)
        return dim
