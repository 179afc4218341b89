"""Vectors of whole shards by one encoder: the same code in this process and on the workers of a cluster."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.encoders import load
from pipeline.encoders.base import Encoder, Fingerprint, ImageEncoder, Pixels, TextEncoder, Vectors
from pipeline.encoders.on_cluster import ONE_AT_A_TIME, S, check_same_model
from pipeline.machine import devices, forwards_at_once, pictures_at_once, side_by_side, threads
from schemas.encoders import EncoderSpec

ADDRESS = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")
"""Left out of Pillow's messages, so that the table has the same reason for the same picture: an object's address in
memory."""


@dataclass
class ShardVectors:
    """What became of a shard's fresh contents.

    Attributes:
        keys: hashes of the contents that have a vector.
        rows: the vectors, in the order of `keys`; None if there are none.
        refused: content hash → why the encoder could not read the content.
    """

    keys: list[str] = field(default_factory=list)
    rows: Vectors | None = None
    refused: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def concat(parts: "Sequence[ShardVectors]") -> "ShardVectors":
        """All parts as one."""
        rows = [part.rows for part in parts if part.rows is not None]
        return ShardVectors(
            [key for part in parts for key in part.keys],
            np.concatenate(rows) if rows else None,
            {key: reason for part in parts for key, reason in part.refused.items()},
        )


class ShardEncoder:
    """An encoder that is loaded when the first new content comes."""

    def __init__(self, spec: EncoderSpec, encoder: Encoder | None = None) -> None:
        self._spec = spec
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The model."""
        if self._encoder is None:
            self._encoder = load.load(self._spec)
        return self._encoder

    def run(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        """Each shard with the vectors of its fresh contents. Batches never cross a shard."""
        return self._encode_texts(shards) if self._spec.modality == "text" else self._encode_pictures(shards)

    def _encode_texts(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        for shard in shards:
            vectors = ShardVectors()
            if shard.fresh:
                encoder = self.encoder
                assert isinstance(encoder, TextEncoder)
                vectors.keys = list(shard.fresh)
                vectors.rows = encoder.encode([str(text) for text in shard.fresh.values()])
            yield shard, vectors

    def _encode_pictures(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        """Batches side by side, each on a thread of its own. A batch ends with its shard, but the threads go on.

        If forward passes run side by side, a thread encodes what it decoded. A GPU is used from the calling thread
        only, because each thread would choose its kernels anew.
        """
        size = pictures_at_once(self._spec.batch_size) * len(devices())
        forward_in_thread = forwards_at_once() > 1

        def batches() -> Iterator[tuple[S, dict[str, bytes] | None]]:
            for shard in shards:
                if shard.fresh:
                    assert isinstance(self.encoder, ImageEncoder)  # loads it here; else every thread would load one
                pictures = list(shard.fresh.items())
                for start in range(0, len(pictures), size):
                    yield shard, dict(pictures[start : start + size])
                yield shard, None

        def work(task: tuple[S, dict[str, bytes] | None]) -> tuple[S, _Batch | None]:
            shard, pictures = task
            if pictures is None:
                return shard, None
            batch = self._decode(pictures)
            return shard, self._forward(batch) if forward_in_thread else batch

        parts: list[ShardVectors] = []
        for shard, batch in side_by_side(work, batches(), workers=threads()):
            if batch is not None:
                parts.append((batch if forward_in_thread else self._forward(batch)).vectors)
            else:
                yield shard, ShardVectors.concat(parts)
                parts = []

    def _decode(self, pictures: dict[str, bytes]) -> "_Batch":
        encoder, batch = self.encoder, _Batch()
        assert isinstance(encoder, ImageEncoder)
        for key, picture in pictures.items():
            try:
                batch.pixels.append(encoder.preprocess(picture))
                batch.vectors.keys.append(key)
            except OSError as error:
                batch.vectors.refused[key] = ADDRESS.sub("", str(error))
        return batch

    def _forward(self, batch: "_Batch") -> "_Batch":
        encoder = self.encoder
        assert isinstance(encoder, ImageEncoder)
        if batch.pixels:
            batch.vectors.rows = encoder.encode(batch.pixels)
            batch.pixels = []
        return batch


@dataclass
class _Batch:
    """Decoded pictures that wait for the forward pass, and their results."""

    pixels: list[Pixels] = field(default_factory=list)
    vectors: ShardVectors = field(default_factory=ShardVectors)


@dataclass
class FreshContents:
    """A shard as a worker receives it: content hash → content."""

    fresh: dict[str, Any]


def encode(spec: EncoderSpec, identity: Fingerprint, fresh: dict[str, Any]) -> ShardVectors:
    """Vectors of one shard's fresh contents, on a worker."""
    with ONE_AT_A_TIME:
        [(_, vectors)] = _load_once(spec, identity.key()).run(iter([FreshContents(fresh)]))
    return vectors


@functools.lru_cache(maxsize=1)
def _load_once(spec: EncoderSpec, key: str) -> ShardEncoder:
    check_same_model(load.fingerprint(spec), key)
    return ShardEncoder(spec)
