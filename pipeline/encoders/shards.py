"""Vectors of whole shards by one encoder: the same code in this process and on the workers of a cluster."""

import functools
import platform
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.encoders.ahead import HasFresh, decoded_ahead
from pipeline.encoders.base import Fingerprint, ImageEncoder, Pixels, TextEncoder, Vectors
from pipeline.encoders.settings import devices, pictures_at_once, threads
from schemas.errors import UserError
from schemas.features import EncoderSpec

Encoder = TextEncoder | ImageEncoder
S = TypeVar("S", bound=HasFresh)
Spec = TypeVar("Spec", bound=BaseModel)
Done = TypeVar("Done")

ADDRESS = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")
"""Pillow names the object it could not read by its place in memory; a table says the same of the same picture."""
ONE_AT_A_TIME = threading.Lock()
"""A worker may have several threads; its model and its cores serve one shard."""


@dataclass
class Encoded:
    """What became of a shard's fresh contents.

    Attributes:
        keys: content hashes of those that have a vector; `rows`: the vectors, in the same order; None where no content
            has one.
        refused: content hash → why the encoder could not read it.
    """

    keys: list[str] = field(default_factory=list)
    rows: Vectors | None = None
    refused: dict[str, str] = field(default_factory=dict)


class ShardEncoder:
    """An encoder, loaded when the first new content comes."""

    def __init__(self, spec: EncoderSpec, encoder: Encoder | None = None) -> None:
        self._spec = spec
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The model."""
        if self._encoder is None:
            self._encoder = load.load(self._spec)
        return self._encoder

    def run(self, shards: Iterator[S]) -> Iterator[tuple[S, Encoded]]:
        """Each shard with what became of its fresh contents. Batches never cross a shard."""
        return self._read(shards) if self._spec.modality == "text" else self._look(shards)

    def _read(self, shards: Iterator[S]) -> Iterator[tuple[S, Encoded]]:
        for shard in shards:
            done = Encoded()
            if shard.fresh:
                encoder = self.encoder
                assert isinstance(encoder, TextEncoder)
                done.keys = list(shard.fresh)
                done.rows = encoder.encode([str(text) for text in shard.fresh.values()])
            yield shard, done

    def _look(self, shards: Iterator[S]) -> Iterator[tuple[S, Encoded]]:
        """Decoding runs ahead of the forward pass, across shards; batches end with their shard."""
        done = Encoded()
        rows: list[Vectors] = []
        pixels: list[Pixels] = []

        def forward() -> None:
            if pixels:
                encoder = self.encoder
                assert isinstance(encoder, ImageEncoder)
                rows.append(encoder.encode(pixels))
                pixels.clear()

        size = pictures_at_once(self._spec.batch_size) * len(devices())
        for shard, key, picture in decoded_ahead(shards, self._decode, workers=threads(), ahead=2 * size):
            if key is None:
                forward()
                done.rows = np.concatenate(rows) if rows else None
                yield shard, done
                done, rows = Encoded(), []
            elif isinstance(picture, OSError):
                done.refused[key] = ADDRESS.sub("", str(picture))
            else:
                done.keys.append(key)
                pixels.append(picture)
                if len(pixels) == size:
                    forward()

    def _decode(self, image: bytes) -> Pixels:
        encoder = self.encoder
        assert isinstance(encoder, ImageEncoder)
        return encoder.preprocess(image)


def elsewhere(
    cluster: Cluster,
    work: Callable[[Spec, Fingerprint, dict[str, Any]], Done],
    spec: Spec,
    identity: Fingerprint,
    shards: Iterator[S],
    nothing: Callable[[], Done],
) -> Iterator[tuple[S, Done]]:
    """Each shard with what `work(spec, identity, fresh)` made of its fresh contents on a worker.

    Args:
        work: of a module's top level: `encode` here, or a captioner's `ask`.
        nothing: what a shard without fresh contents has.

    Raises:
        UserError: a worker lacks the model or has another one, or the cluster was lost.
    """
    spec = spec.model_copy(update={"dtype": identity.dtype})  # what `auto` means is decided here, for all
    tasks = ((shard, (spec, identity, shard.fresh) if shard.fresh else None) for shard in shards)
    for shard, done in cluster.map(work, tasks):
        yield shard, done or nothing()


@dataclass
class _Fresh:
    fresh: dict[str, Any]


def encode(spec: EncoderSpec, identity: Fingerprint, fresh: dict[str, Any]) -> Encoded:
    """One shard's fresh contents, on a worker."""
    with ONE_AT_A_TIME:
        [(_, encoded)] = _loaded(spec, identity.key()).run(iter([_Fresh(fresh)]))
    return encoded


@functools.lru_cache(maxsize=1)
def _loaded(spec: EncoderSpec, expected: str) -> ShardEncoder:
    expect(load.fingerprint(spec), expected)
    return ShardEncoder(spec)


def expect(found: Fingerprint, key: str) -> None:
    """Make sure that a worker's model is the one of the process that publishes.

    Raises:
        UserError: it is not.
    """
    if found.key() != key:
        raise UserError(
            f"The worker on {platform.node()} has another {found.model!r} than the process that publishes, or another "
            f"version of this package: it says {found.model_dump_json()}. Give all machines the same."
        )
