"""Vectors of whole shards by one encoder: the same code in this process and on the workers of a cluster."""

import functools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.cluster import ONE_AT_A_TIME
from pipeline.contents import content_hash, hash_of_all
from pipeline.encoders import load
from pipeline.encoders.base import (
    Encoder,
    Fingerprint,
    ImageEncoder,
    Inputs,
    Item,
    ItemEncoder,
    RefusedTextsError,
    ServedEncoder,
    TextEncoder,
    Vectors,
)
from pipeline.encoders.on_cluster import S, check_same_model
from pipeline.machine import devices, forwards_at_once, pictures_at_once, side_by_side, threads
from schemas.encoders import EncoderSpec

ADDRESS = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")
"""Left out of Pillow's messages, so that the table has the same reason for the same picture: an object's address in
memory."""
NOT_TAKEN = "the model does not take it"


@dataclass
class ShardVectors:
    """What became of a shard's fresh contents.

    Attributes:
        keys: hashes of the contents that have a vector.
        rows: the vectors, in the order of `keys`; None if there are none.
        refused: content hash → why the encoder could not read the content, a text or a picture.
        refused_items: hash of all parts of an item → why the model does not take them together. An item of one part
            has the part's hash, but beside others the part may be read.
        cut: for each of `keys` whether its text is longer than the model reads; None where that is not known.
        tokens, seconds: as an endpoint counted the ones, and what it took.
    """

    keys: list[str] = field(default_factory=list)
    rows: Vectors | None = None
    refused: dict[str, str] = field(default_factory=dict)
    refused_items: dict[str, str] = field(default_factory=dict)
    cut: list[bool | None] | None = None
    tokens: int = 0
    seconds: float = 0.0

    @staticmethod
    def concat(parts: "Sequence[ShardVectors]") -> "ShardVectors":
        """All parts as one."""
        rows = [part.rows for part in parts if part.rows is not None]
        return ShardVectors(
            [key for part in parts for key in part.keys],
            np.concatenate(rows) if rows else None,
            {key: reason for part in parts for key, reason in part.refused.items()},
            {key: reason for part in parts for key, reason in part.refused_items.items()},
            [mark for part in parts for mark in (part.cut if part.cut is not None else [None] * len(part.keys))],
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
        """Each shard with the vectors of its fresh contents. Batches never cross a shard.

        An item of which a part cannot be read gets none: see `rest_of`.
        """
        if self._spec.is_served:
            return self._ask_server(shards)
        return self._encode_texts(shards) if self._spec.modality == "text" else self._encode_in_batches(shards)

    def _ask_server(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        for shard in shards:
            vectors = ShardVectors()
            if shard.fresh:
                encoder, keys = self.encoder, list(shard.fresh)
                assert isinstance(encoder, ServedEncoder)
                begun = time.perf_counter()
                given = encoder.embed(list(shard.fresh.values()))
                seconds = time.perf_counter() - begun
                refused = {keys[place]: reason for place, reason in given.reasons.items()}
                vectors = ShardVectors(
                    [keys[place] for place in given.places],
                    given.vectors,
                    refused,
                    tokens=given.tokens,
                    seconds=seconds,
                )
            yield shard, vectors

    def _encode_texts(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        for shard in shards:
            vectors = ShardVectors()
            if shard.fresh:
                encoder = self.encoder
                assert isinstance(encoder, TextEncoder)
                texts = {key: str(text) for key, text in shard.fresh.items()}
                while texts and vectors.rows is None:
                    try:
                        vectors.rows = encoder.encode(list(texts.values()))
                        vectors.cut = list(encoder.cut(list(texts.values())))
                    except RefusedTextsError as error:
                        reasons = error.reasons
                        refused = {key: reasons[text] for key, text in texts.items() if text in reasons}
                        vectors.refused |= {key: f"{NOT_TAKEN}: {reason}" for key, reason in refused.items()}
                        texts = {key: text for key, text in texts.items() if key not in refused}
                vectors.keys = list(texts)
            yield shard, vectors

    def _encode_in_batches(self, shards: Iterator[S]) -> Iterator[tuple[S, ShardVectors]]:
        """Batches of pictures, or of items, side by side, each on a thread of its own. A batch ends with its shard, but
        the threads go on.

        If forward passes run side by side, a thread encodes what it decoded. A GPU is used from the calling thread
        only, because each thread would choose its kernels anew.
        """
        size = pictures_at_once(self._spec.batch_size) * len(devices())
        forward_in_thread = forwards_at_once() > 1
        of_items = self._spec.modality == "multimodal"

        def batches() -> Iterator[tuple[S, dict[str, Any] | None]]:
            for shard in shards:
                if shard.fresh:
                    assert isinstance(self.encoder, ImageEncoder | ItemEncoder)  # else every thread would load one
                contents = list(shard.fresh.items())
                if of_items:  # items of like size share a batch: computing on padding is wasted work
                    contents.sort(key=lambda content: _size(content[1]))
                for start in range(0, len(contents), size):
                    yield shard, dict(contents[start : start + size])
                yield shard, None

        def work(task: tuple[S, dict[str, Any] | None]) -> tuple[S, _Batch | None]:
            shard, contents = task
            if contents is None:
                return shard, None
            batch = self._decode_items(contents) if of_items else self._decode(contents)
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
                batch.inputs.append(encoder.preprocess(picture))
                batch.vectors.keys.append(key)
            except OSError as error:
                batch.vectors.refused[key] = ADDRESS.sub("", str(error))
        return batch

    def _decode_items(self, contents: dict[str, list[str | bytes]]) -> "_Batch":
        """Every item of which all parts can be read."""
        from pipeline.encoders.transforms import read_picture  # torch: a plan, which imports this module, does without

        encoder, batch = self.encoder, _Batch()
        assert isinstance(encoder, ItemEncoder)
        items: dict[str, Item] = {}
        for key, parts in contents.items():
            text, pictures, unreadable = None, [], {}
            for part in parts:
                try:
                    if isinstance(part, str):
                        text = part
                    else:
                        pictures.append(read_picture(part))
                except OSError as error:
                    unreadable[content_hash(part)] = ADDRESS.sub("", str(error))
            batch.vectors.refused |= unreadable
            if not unreadable:
                items[key] = Item(text, tuple(pictures))
        if items:
            batch.inputs = self._preprocessed(encoder, items, batch.vectors)
        return batch

    def _preprocessed(self, encoder: ItemEncoder, items: dict[str, Item], vectors: ShardVectors) -> list[Inputs]:
        """The items' inputs, and their keys in `vectors`. If the model refuses one, each is a batch by itself."""
        try:
            inputs = encoder.preprocess(list(items.values()))
        except ValueError as error:
            if len(items) > 1:
                alone = [self._preprocessed(encoder, {key: item}, vectors) for key, item in items.items()]
                return [inputs for mine in alone for inputs in mine]
            vectors.refused_items |= dict.fromkeys(items, f"{NOT_TAKEN}: {error}")
            return []
        vectors.keys += items
        vectors.cut = [*(vectors.cut or ()), *encoder.cut(list(items.values()), inputs)]
        return inputs

    def _forward(self, batch: "_Batch") -> "_Batch":
        encoder: Any = self.encoder
        if batch.inputs:
            batch.vectors.rows = encoder.encode(batch.inputs)
            batch.inputs = []
        return batch


def _size(parts: list[str | bytes]) -> tuple[int, int]:
    """How much an item gives a model to read: its number of pictures, and the length of its text in characters."""
    texts = [part for part in parts if isinstance(part, str)]
    return len(parts) - len(texts), sum(map(len, texts))


@dataclass
class _Batch:
    """What waits for the forward pass, `Pixels` of pictures or `Inputs` of items, and the results."""

    inputs: list[Any] = field(default_factory=list)
    vectors: ShardVectors = field(default_factory=ShardVectors)


@dataclass
class FreshContents:
    """A shard as a worker receives it: content hash → content."""

    fresh: dict[str, Any]


def rest_of(fresh: dict[str, Any], refused: Mapping[str, str]) -> dict[str, Any]:
    """The items of a shard of which a part cannot be read, without that part: hash of the rest → its parts."""
    readable = {
        key: [part for part in parts if content_hash(part) not in refused]
        for key, parts in fresh.items()
        if isinstance(parts, list)
    }
    return {
        key: parts
        for whole, parts in readable.items()
        if (key := hash_of_all(list(map(content_hash, parts)))) not in (whole, None)
    }


def encode(spec: EncoderSpec, identity: Fingerprint, fresh: dict[str, Any]) -> ShardVectors:
    """Vectors of one shard's fresh contents, on a worker."""
    with ONE_AT_A_TIME:
        [(_, vectors)] = _load_once(spec, identity.key()).run(iter([FreshContents(fresh)]))
    return vectors


@functools.lru_cache(maxsize=1)
def _load_once(spec: EncoderSpec, key: str) -> ShardEncoder:
    check_same_model(load.fingerprint(spec), key)
    return ShardEncoder(spec)
