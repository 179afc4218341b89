"""Vectors of whole shards by one encoder: the same code in this process and on the workers of a cluster."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.encoders import load
from pipeline.encoders.base import Fingerprint, ImageEncoder, Pixels, TextEncoder, Vectors
from pipeline.encoders.on_cluster import ONE_AT_A_TIME, S, expect
from pipeline.machine import devices, forwards_at_once, pictures_at_once, side_by_side, threads
from schemas.encoders import EncoderSpec

Encoder = TextEncoder | ImageEncoder


ADDRESS = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")
"""Pillow names the object it could not read by its place in memory; a table says the same of the same picture."""


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

    @staticmethod
    def of(parts: "Sequence[Encoded]") -> "Encoded":
        """All parts as one."""
        rows = [part.rows for part in parts if part.rows is not None]
        return Encoded(
            [key for part in parts for key in part.keys],
            np.concatenate(rows) if rows else None,
            {key: reason for part in parts for key, reason in part.refused.items()},
        )


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
        """Batches side by side, each on a thread of its own. Batches end with their shard, the work does not.

        Threads encode what they decoded where forward passes run side by side. A GPU is used from this one: each thread
        would choose its kernels anew.
        """
        size = pictures_at_once(self._spec.batch_size) * len(devices())
        there = forwards_at_once() > 1

        def batches() -> Iterator[tuple[S, dict[str, bytes] | None]]:
            for shard in shards:
                if shard.fresh:
                    assert isinstance(self.encoder, ImageEncoder)  # loaded here: each of the threads would load one
                pictures = list(shard.fresh.items())
                for start in range(0, len(pictures), size):
                    yield shard, dict(pictures[start : start + size])
                yield shard, None

        def seen(batch: tuple[S, dict[str, bytes] | None]) -> tuple[S, _Batch | None]:
            shard, pictures = batch
            if pictures is None:
                return shard, None
            decoded = self._decoded(pictures)
            return shard, self._forward(decoded) if there else decoded

        done: list[Encoded] = []
        for shard, batch in side_by_side(seen, batches(), workers=threads()):
            if batch is not None:
                done.append((batch if there else self._forward(batch)).encoded)
            else:
                yield shard, Encoded.of(done)
                done = []

    def _decoded(self, pictures: dict[str, bytes]) -> "_Batch":
        encoder, batch = self.encoder, _Batch()
        assert isinstance(encoder, ImageEncoder)
        for key, picture in pictures.items():
            try:
                batch.pixels.append(encoder.preprocess(picture))
                batch.encoded.keys.append(key)
            except OSError as error:
                batch.encoded.refused[key] = ADDRESS.sub("", str(error))
        return batch

    def _forward(self, batch: "_Batch") -> "_Batch":
        encoder = self.encoder
        assert isinstance(encoder, ImageEncoder)
        if batch.pixels:
            batch.encoded.rows = encoder.encode(batch.pixels)
            batch.pixels = []
        return batch


@dataclass
class _Batch:
    """Pictures on their way: what was decoded, and what became of them."""

    pixels: list[Pixels] = field(default_factory=list)
    encoded: Encoded = field(default_factory=Encoded)


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
