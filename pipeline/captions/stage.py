"""Stage `captions`: one caption per picture, by a vision-language model. A bad answer is asked for once more.

Content-addressed like features: equal pictures are captioned once per captioner.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator

import pyarrow as pa

from pipeline import contents
from pipeline.cache import ShardCache
from pipeline.captions import attributes, load
from pipeline.captions.shards import ShardAnswers, ShardCaptioner, caption
from pipeline.cluster import Cluster
from pipeline.contents import Shard
from pipeline.encoders.base import Captioner, Fingerprint
from pipeline.encoders.on_cluster import map_shards
from pipeline.progress import track
from pipeline.published import Counts, Published
from pipeline.store import Store
from schemas import tables
from schemas.encoders import CaptionSpec
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.tables import CaptionStatus

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
SHARD = 64
"""Pictures that are read, captioned, kept and forgotten together."""
CACHED = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string(), nullable=False),
    ]
)
"""An answer to each picture, by its content, of attributes as JSON; failures to reach a model are not kept."""
COUNTS = ("encoded", "reused", "missing", "asked_again", "tokens_in", "tokens_out", "seconds", "cost")


def run(
    *,
    store: Store,
    images: TableVersion,
    spec: CaptionSpec,
    captioner: Captioner | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish `captions`, one row per item in the order of `images`. Equal input returns the version published before.

    Counts: pictures that were `encoded` (went through the model), `reused` (captioned before, or equal to another),
    `asked_again` (needed a second request), `rejected: <status>` (the second answer was no caption either); items that
    are `missing` a picture; `tokens_in` and `tokens_out` as the model or endpoint counted them; `cost` by the prices in
    the spec; `seconds`, the sum over the answers of the time each took.

    Args:
        captioner: used in this process instead of the one that `spec` names; its fingerprint identifies the captions.
        cluster: its workers load the model and caption. An endpoint is asked from this process.

    Raises:
        UserError: `images` is another table; the model is missing, damaged or not reachable; the cluster was lost; or a
            worker has another model.
    """
    if images.table != "images":
        raise UserError(f"Captions are made from the table 'images', but were given {images.table!r}.")
    identity = captioner.fingerprint if captioner is not None else load.fingerprint(spec)
    if (version := store.find(describe(images, identity, spec))) is not None:
        logger.info("captions: version %s is already published, nothing to caption", version.version)
        return Published({"captions": version}, {"reused": version.rows})
    work = _Work(store, spec, identity, captioner)
    with track("captions", total=images.rows, part="shard") as advance:
        shards = contents.shards(store, images, work.cache.held, size=SHARD)
        for shard in work.answered(shards, cluster if captioner is None else None):
            advance(len(shard.hashes))
    _report(work.counts)
    names = tuple(attribute.name for attribute in spec.attributes)
    with store.writer(tables.captions(names), describe(images, identity, spec, work.unanswered)) as writer:
        for ids in store.batches(images, ["item_id"]):
            writer.write(work.table(ids["item_id"]))
    return Published({"captions": writer.version}, work.counts)


def kept(store: Store, identity: Fingerprint) -> ShardCache:
    """The answers of a captioner that the store has."""
    namespace = f"captions/{identity.kind}-{identity.key()[:16]}"
    record = json.dumps({"encoder": identity.model_dump()}, indent=2)  # a plan finds the cache by it
    store.put(f"_cache/{namespace}/encoder.json", record.encode())
    return ShardCache(store, namespace, CACHED)


def describe(
    images: TableVersion, identity: Fingerprint, spec: CaptionSpec, unanswered: Collection[str] = ()
) -> Lineage:
    """What determines the table: pictures, captioner and template; and which pictures are unanswered: the table is
    published without them, but the next run tries again."""
    config = identity.config()
    if spec.template:
        config["template"] = spec.template
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
        license=identity.license,
    )


def _report(counts: Counts) -> None:
    rejected = ", ".join(f"{name} {count:.0f}" for name, count in counts.items() if name.startswith("rejected"))
    logger.info(
        "captions: %d captioned (%d asked twice), %d reused, %d missing, %s; %d tokens in, %d out, cost %.4f, "
        "%.2f s per answer",
        counts["encoded"],
        counts["asked_again"],
        counts["reused"],
        counts["missing"],
        rejected or "none rejected",
        counts["tokens_in"],
        counts["tokens_out"],
        counts["cost"],
        counts["seconds"] / max(counts["encoded"], 1),
    )


class _Work:
    """Cache, captioner and counts of one run.

    Attributes:
        unanswered: content hashes of pictures without an answer; a later run tries them again.
    """

    def __init__(self, store: Store, spec: CaptionSpec, identity: Fingerprint, captioner: Captioner | None) -> None:
        self.counts: Counts = dict.fromkeys(COUNTS, 0)
        self._spec = spec
        self._identity = identity
        self._captioner = ShardCaptioner(spec, captioner)
        self.unanswered: set[str] = set()
        self._hashes: list[pa.Array] = []
        self._written = 0
        self.cache = kept(store, identity)

    def answered(self, shards: Iterator[Shard], cluster: Cluster | None) -> Iterator[Shard]:
        """The same shards, after their captions are in the cache. An endpoint is asked from this process."""
        if cluster is not None and self._spec.kind != "endpoint":
            answered = map_shards(cluster, caption, self._spec, self._identity, shards, ShardAnswers)
        else:
            answered = ((shard, self._captioner.run(shard.fresh)) for shard in shards)
        for shard, answers in answered:
            self._keep(shard, answers)
            yield shard

    def _keep(self, shard: Shard, answers: ShardAnswers) -> None:
        """Put the answers into the cache, except failures to reach a model, and count."""
        rows = []
        for key, (text, status) in answers.judged.items():
            if status is CaptionStatus.ERROR:
                self.unanswered.add(key)
            else:
                rows.append({"content_hash": key, "caption": text, "status": status})
            if status is not CaptionStatus.OK:
                self.counts[f"rejected: {status}"] = self.counts.get(f"rejected: {status}", 0) + 1
                logger.warning("item %s: caption status %s: %.120s", shard.owner(key), status, text)
        self.cache.append(pa.Table.from_pylist(rows, schema=CACHED))
        missing = sum(not hashes for hashes in shard.hashes)
        self.counts["encoded"] += len(answers.judged)
        self.counts["missing"] += missing
        self.counts["reused"] += len(shard.hashes) - missing - len(answers.judged)
        self._count_cost(answers)
        self._hashes.append(pa.array([hashes[0] if hashes else None for hashes in shard.hashes], pa.string()))

    def _count_cost(self, answers: ShardAnswers) -> None:
        counts, spec = self.counts, self._spec
        counts["asked_again"] += answers.asked_again
        counts["tokens_in"] += answers.tokens_in
        counts["tokens_out"] += answers.tokens_out
        counts["seconds"] += answers.seconds
        counts["cost"] += (answers.tokens_in * spec.price_in + answers.tokens_out * spec.price_out) / 1e6

    def table(self, item_ids: pa.ChunkedArray) -> pa.Table:
        """The next rows of the published table, in order. Only rows with status `ok` have a caption."""
        hashes = pa.chunked_array(self._hashes, pa.string()).slice(self._written, len(item_ids)).to_pylist()
        self._written += len(item_ids)
        source = {"model": self._identity.model, "revision": self._identity.revision, "prompt": self._spec.prompt}
        answers = self.cache.lookup([key or "" for key in hashes]).to_pylist()
        rows = []
        for item_id, key, answer in zip(item_ids.to_pylist(), hashes, answers, strict=True):
            status = answer["status"] or (CaptionStatus.NO_IMAGE if key is None else CaptionStatus.ERROR)
            kept = answer["caption"] if status == CaptionStatus.OK else None
            caption_text = attributes.text(kept, self._spec)
            if kept is not None and caption_text is None:
                status = CaptionStatus.EMPTY  # the template has nothing of what was seen
            row = {"item_id": item_id, "content_hash": key, "caption": caption_text, "status": status}
            said = {f"attribute_{name}": value for name, value in attributes.values(kept, self._spec).items()}
            rows.append(row | source | said)
        names = tuple(attribute.name for attribute in self._spec.attributes)
        return pa.Table.from_pylist(rows, schema=tables.captions(names))
