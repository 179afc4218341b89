"""Captions by an OpenAI batch: requests to send, and the answers read back into the finished work."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import contents
from pipeline.captions import load
from pipeline.captions.attributes import judged
from pipeline.captions.endpoint import answer, request
from pipeline.captions.stage import CACHED, kept
from pipeline.endpoints import batch
from pipeline.published import Counts
from pipeline.store import Store
from schemas.encoders import CaptionSpec
from schemas.lineage import TableVersion

FORM = batch.Form("captions", "captioner", ("endpoint",), "picture", "/v1/chat/completions", "chat completion")
SHARD = 64
"""Pictures that are read together."""


def export(*, store: Store, images: TableVersion, spec: CaptionSpec, folder: Path) -> list[Path]:
    """Write a request for every picture without an answer, once.

    Returns: the files, `requests-00000.jsonl` and on; none if every picture has its answer.

    Raises:
        UserError: the captioner is not a server's; the folder holds such files already, or cannot be written.
    """
    FORM.check(spec)
    cache = kept(store, load.fingerprint(spec))
    shards = contents.shards(store, images, cache.held, size=SHARD)
    bodies = ((key, request(spec, picture)) for shard in shards for key, picture in shard.fresh.items())
    return batch.write(FORM, bodies, folder)


def read(*, store: Store, images: TableVersion, spec: CaptionSpec, files: Sequence[Path]) -> Counts:
    """Keep the answers of a batch, so that the next run with this captioner finds them. A failed one stays open.

    Counts: answers that were `kept`, of them those `rejected: <status>` (no caption: a run does not ask again), those
    that `failed`, and `others`, of pictures that the data set does not have.

    Raises:
        UserError: the captioner is not a server's; or see `batch.read`.
    """
    FORM.check(spec)
    cache = kept(store, load.fingerprint(spec))
    shards = contents.shards(store, images, contents.nothing_held, size=SHARD)
    rejected: Counter[str] = Counter()

    def row(key: str, body: Any) -> batch.Row:
        said = answer(body)
        text, status = judged(said.text, spec, cut=said.cut)
        rejected.update([f"rejected: {status}"] if status != "ok" else [])
        return {"content_hash": key, "caption": text, "status": status}

    counts = batch.read(
        FORM,
        files,
        spec,
        dataset=images.dataset,
        asked={key for shard in shards for key in shard.fresh},
        row=row,
        keep=lambda rows: cache.append(pa.Table.from_pylist(rows, schema=CACHED)),
    )
    return counts | rejected
