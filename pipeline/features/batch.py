"""Vectors by an OpenAI batch: requests to send, and the answers read back into the finished work."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import contents
from pipeline.contents import Held, Shard
from pipeline.encoders import load
from pipeline.encoders.base import finish
from pipeline.encoders.endpoint import answer, fault, request
from pipeline.endpoints import batch
from pipeline.endpoints.client import MALFORMED
from pipeline.features.kept import Kept, check_width
from pipeline.features.stage import IMAGE_SHARD, TEXT_SHARD
from pipeline.published import Counts
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.lineage import TableVersion

KINDS = ("embedding-endpoint", "embedding-endpoint-image")
FORM = batch.Form("embeddings", "encoder", KINDS, "text or picture", "/v1/embeddings", "list of embeddings")


def export(
    *, store: Store, source: TableVersion, spec: EncoderSpec, folder: Path, gallery: TableVersion | None = None
) -> list[Path]:
    """Write a request for every content without a vector, once: one text or picture each.

    Args:
        source, gallery: as the stage `features` reads them.

    Returns: the files, `requests-00000.jsonl` and on; none if every content has its vector.

    Raises:
        UserError: the encoder is not a server's; the folder holds such files already, or cannot be written.
    """
    FORM.check(spec)
    cache = Kept(store, load.fingerprint(spec)).cache
    shards = _shards(store, source, gallery, spec, cache.held)
    bodies = ((key, request(spec, [content])) for shard in shards for key, content in shard.fresh.items())
    return batch.write(FORM, bodies, folder)


def read(
    *,
    store: Store,
    source: TableVersion,
    spec: EncoderSpec,
    files: Sequence[Path],
    gallery: TableVersion | None = None,
) -> Counts:
    """Keep the vectors of a batch, so that the next run with this encoder finds them. A failed one stays open, as does
    one with NaN, or of another width than those that the store has; if it has none, than most of the batch.

    Counts: answers that were `kept`, those that `failed`, and `others`, of contents that the data set does not have.

    Raises:
        UserError: the encoder is not a server's; its vectors are of another width than those that the store has; or
            see `batch.read`.
    """
    FORM.check(spec)
    kept = Kept(store, load.fingerprint(spec))
    shards = _shards(store, source, gallery, spec, contents.nothing_held)
    asked = {key for shard in shards for key in shard.fresh}
    width = _width(spec, files, asked, kept.dim)

    def row(key: str, body: Any) -> batch.Row:
        [vector], _ = answer(body, 1)
        if reason := fault(vector, width):
            raise ValueError(reason)
        return {"key": key, "vector": vector}

    def keep(rows: list[batch.Row]) -> None:
        given = torch.from_numpy(np.stack([row["vector"] for row in rows]))
        vectors = finish(given, normalize=spec.normalize, truncate_dim=spec.truncate_dim)
        dim = kept.dim
        if dim is None:
            kept.set_dim(dim := vectors.shape[1])
        check_width(spec, vectors, dim)
        kept.add([row["key"] for row in rows], vectors)

    return batch.read(FORM, files, spec, dataset=source.dataset, asked=asked, row=row, keep=keep)


def _width(spec: EncoderSpec, files: Sequence[Path], asked: Collection[str], dim: int | None) -> int:
    """The width that most of the vectors in the files have, among those that end up `dim` wide if any do; 0 if there
    are none. One odd vector that comes first must not decide it."""
    widths: Counter[int] = Counter()
    for key, body in batch.bodies(files):
        with contextlib.suppress(*MALFORMED):  # told when it is read
            [vector], _ = answer(body, 1)
            if key in asked and not fault(vector, vector.size):
                widths[vector.size] += 1
    fitting = [width for width in widths if min(width, spec.truncate_dim or width) == dim]
    return max(fitting or widths, key=widths.__getitem__, default=0)


def _shards(
    store: Store, source: TableVersion, gallery: TableVersion | None, spec: EncoderSpec, held: Held
) -> Iterator[Shard]:
    size = TEXT_SHARD if spec.modality == "text" else IMAGE_SHARD
    return contents.shards(store, source, held, size=size, gallery=gallery)
