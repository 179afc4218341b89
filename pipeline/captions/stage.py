"""Stage: one caption for every picture, by a vision-language model, judged, and asked for once more where it was none.

Content-addressed like features: a picture is captioned once per (content, captioner); equal pictures once.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator

import pyarrow as pa

from pipeline import contents
from pipeline.cache import ShardCache
from pipeline.captions import load
from pipeline.captions.shards import Asked, ShardCaptioner, ask
from pipeline.cluster import Cluster
from pipeline.contents import Shard
from pipeline.encoders.base import Captioner, Fingerprint
from pipeline.encoders.on_cluster import map_shards
from pipeline.progress import track
from pipeline.published import Counts, Published
from pipeline.store import Store
from schemas.encoders import CaptionSpec
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import CAPTIONS, CaptionStatus

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
SHARD = 64
"""Pictures read, captioned, kept and forgotten at once."""
CACHED = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string(), nullable=False),
    ]
)

COUNTED = ("encoded", "reused", "missing", "asked_again", "tokens_in", "tokens_out", "seconds", "cost")


def run(
    *,
    store: Store,
    images: TableVersion,
    spec: CaptionSpec,
    captioner: Captioner | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish `captions`, one row per item in the order of `images`; or find what was published from equal input.

    Counts pictures: `encoded` (went through the model), `reused` (captioned before, or equal to another), `asked_again`
    (asked for twice), `rejected: <status>` (the second answer was no caption either); items that are `missing` a
    picture; `tokens_in` and `tokens_out` as the model or endpoint counted them, `cost` by the prices in the spec, and
    `seconds`, the sum over pictures of the time to their answers.

    Args:
        captioner: used in place of the one `spec` names, in this process; its fingerprint identifies the captions.
        cluster: whose workers load the model and caption; an endpoint is asked from here.

    Raises:
        UserError: `images` is another table, or the model is missing, damaged or not reachable; the cluster was lost,
            or a worker has another model.
    """
    if images.table != "images":
        raise UserError(f"Captions are made from the table 'images', but were given {images.table!r}.")
    identity = captioner.fingerprint if captioner is not None else load.fingerprint(spec)
    if (version := store.find(_lineage(images, identity))) is not None:
        logger.info("captions: version %s is already published, nothing to caption", version.version)
        return Published({"captions": version}, {"reused": version.rows})
    work = _Work(store, spec, identity, captioner)
    with track("captions", total=images.rows, part="shard") as advance:
        shards = contents.shards(store, images, work.cache, size=SHARD)
        for shard in work.answered(shards, cluster if captioner is None else None):
            advance(len(shard.hashes))
    _report(work.counts)
    with store.writer(CAPTIONS, _lineage(images, identity, work.unanswered)) as writer:
        for ids in store.batches(images, ["item_id"]):
            writer.write(work.table(ids["item_id"]))
    return Published({"captions": writer.version}, work.counts)


def _lineage(images: TableVersion, identity: Fingerprint, unanswered: Collection[str] = ()) -> Lineage:
    """Pictures that no answer came for are part of the key: such a table is published, but the next run tries again."""
    config = identity.model_dump(exclude={"model", "revision"})
    if unanswered:
        config["unanswered"] = hashlib.sha256("".join(sorted(unanswered)).encode()).hexdigest()
    return Lineage(
        dataset=images.dataset,
        table="captions",
        stage="captions",
        stage_version=STAGE_VERSION,
        config=config,
        inputs={images.table: images.version},
        encoder=identity.model,
        revision=identity.revision,
    )


def _report(counts: Counts) -> None:
    rejected = ", ".join(f"{name} {count:.0f}" for name, count in counts.items() if name.startswith("rejected"))
    logger.info(
        "captions: %d captioned (%d asked twice), %d reused, %d missing, %s; %d tokens in, %d out, cost %.4f, "
        "%.2f s per answer",
        counts["encoded"], counts["asked_again"], counts["reused"], counts["missing"], rejected or "none rejected",
        counts["tokens_in"], counts["tokens_out"], counts["cost"], counts["seconds"] / max(counts["encoded"], 1),
    )  # fmt: skip


class _Work:
    """Cache and captioner of one run; the model is loaded when the first new picture comes."""

    def __init__(self, store: Store, spec: CaptionSpec, identity: Fingerprint, captioner: Captioner | None) -> None:
        self.counts: Counts = dict.fromkeys(COUNTED, 0)
        self._spec = spec
        self._identity = identity
        self._captioner = ShardCaptioner(spec, captioner)
        self.unanswered: set[str] = set()
        self._hashes: list[pa.Array] = []
        self._written = 0
        self.cache = ShardCache(store, f"captions/{identity.kind}-{identity.key()[:16]}", CACHED)

    def answered(self, shards: Iterator[Shard], cluster: Cluster | None) -> Iterator[Shard]:
        """The same shards, once their captions are in the cache. An endpoint is asked from here: it is one server."""
        if cluster is not None and self._spec.kind != "endpoint":
            done = map_shards(cluster, ask, self._spec, self._identity, shards, Asked)
        else:
            done = ((shard, self._captioner.run(shard.fresh)) for shard in shards)
        for shard, asked in done:
            self._keep(shard, asked)
            yield shard

    def _keep(self, shard: Shard, asked: Asked) -> None:
        """Failures to reach a model are not kept, so the next run tries them again."""
        rows = []
        for key, (text, status) in asked.judged.items():
            if status is CaptionStatus.ERROR:
                self.unanswered.add(key)
            else:
                rows.append({"content_hash": key, "caption": text, "status": status})
            if status is not CaptionStatus.OK:
                self.counts[f"rejected: {status}"] = self.counts.get(f"rejected: {status}", 0) + 1
                logger.warning("item %s: caption status %s: %.120s", shard.owner(key), status, text)
        self.cache.append(pa.Table.from_pylist(rows, schema=CACHED))
        missing = sum(not mine for mine in shard.hashes)
        self.counts["encoded"] += len(asked.judged)
        self.counts["missing"] += missing
        self.counts["reused"] += len(shard.hashes) - missing - len(asked.judged)
        self._spend(asked)
        self._hashes.append(pa.array([mine[0] if mine else None for mine in shard.hashes], pa.string()))

    def _spend(self, asked: Asked) -> None:
        counts = self.counts
        counts["asked_again"] += asked.asked_again
        counts["tokens_in"] += asked.tokens_in
        counts["tokens_out"] += asked.tokens_out
        counts["seconds"] += asked.seconds
        counts["cost"] += (asked.tokens_in * self._spec.price_in + asked.tokens_out * self._spec.price_out) / 1e6

    def table(self, item_ids: pa.ChunkedArray) -> pa.Table:
        """The next rows of the published table, in order; only status `ok` has a caption."""
        hashes = pa.chunked_array(self._hashes, pa.string()).slice(self._written, len(item_ids)).to_pylist()
        self._written += len(item_ids)
        rows = []
        known = self.cache.lookup([key or "" for key in hashes]).to_pylist()
        for item_id, key, row in zip(item_ids.to_pylist(), hashes, known, strict=True):
            status = row["status"] or (CaptionStatus.NO_IMAGE if key is None else CaptionStatus.ERROR)
            caption = row["caption"] if status == CaptionStatus.OK else None
            rows.append(
                {"item_id": item_id, "content_hash": key, "caption": caption, "status": status} | self._said_by()
            )
        return pa.Table.from_pylist(rows, schema=CAPTIONS)

    def _said_by(self) -> dict[str, str]:
        return {"model": self._identity.model, "revision": self._identity.revision, "prompt": self._spec.prompt}
