"""sentence-transformers models that read texts and pictures: one vector of an item's text and all its pictures.

A model with a chat template reads the parts of an item as one message. A model of two towers (CLIP, SigLIP) reads each
part alone: the item's vector is then the mean of the text's and the pictures' mean direction.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.encoders.base import Fingerprint, Inputs, Item, Vectors, finish, means
from pipeline.encoders.bfloat16 import prepare
from pipeline.encoders.sentence import MASK, loaded, longer_than_read
from pipeline.machine import pictures_at_once
from schemas.encoders import EncoderSpec
from schemas.errors import UserError

UNLIMITED = 1 << 30
"""More tokens than an item has."""


class MultimodalEncoder:
    """An `ItemEncoder` over a sentence-transformers folder whose model reads texts and pictures."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = pictures_at_once(spec.batch_size)
        self._spec = spec
        self._model: Any = loaded(spec, folder)
        if missing := {"text", "image"} - set(self._model.modalities):
            raise UserError(
                f"Model {spec.model!r} is not multimodal: it reads no {' and no '.join(sorted(missing))}, only "
                f"{', '.join(map(str, self._model.modalities))}. Choose another model, or another kind for this one."
            )
        self._reads_messages = "message" in self._model.modalities
        prepare(self._model, identity.dtype, self._model.device)
        self._prompt = spec.prompt or self._model.prompts.get(self._model.default_prompt_name or "") or None
        self._limit = self._model.max_seq_length or UNLIMITED
        self._tokenizing = threading.Lock()  # the processors keep padding and truncation in themselves
        self.dim = self.encode(self.preprocess([Item("a", (Image.new("RGB", (32, 32)),))])).shape[1]

    def preprocess(self, items: Sequence[Item]) -> list[Inputs]:
        """Pictures come before the text: where a long text is cut, they stay whole.

        Raises:
            ValueError: the model does not take one of the items: more pictures than it has tokens for, or a text that
                contains its mark for a picture.
        """
        starts = range(0, len(items), self.batch_size)
        read = self._messages if self._reads_messages else self._parts
        return [read(items[start : start + self.batch_size]) for start in starts]

    def cut(self, items: Sequence[Item], batches: Sequence[Inputs]) -> list[bool]:
        """Which items have a longer text than the model reads, in a message after their pictures.

        Only messages that fill the model are tokenized again.
        """
        if not self._reads_messages:
            with self._tokenizing:
                return longer_than_read(self._model, [(self._prompt or "") + (item.text or "") for item in items])
        limit = self._limit
        lengths = [length for inputs in batches for _, features in inputs for length in _lengths(features)]
        return [
            length >= limit and self._whole_length(item) > limit for item, length in zip(items, lengths, strict=True)
        ]

    def encode(self, batches: Sequence[Inputs]) -> Vectors:
        """One row per item, in the order given."""
        return np.concatenate([self._encode(inputs) for inputs in batches])

    def _messages(self, items: Sequence[Item]) -> Inputs:
        return [([1] * len(items), self._features(list(map(_message, items))))]

    def _parts(self, items: Sequence[Item]) -> Inputs:
        """The texts of all items in one pass, their pictures in another."""
        texts = [[] if item.text is None else [{"text": item.text}] for item in items]
        pictures = [[{"image": picture} for picture in item.pictures] for item in items]
        kinds = [kind for kind in (texts, pictures) if any(kind)]
        return [(list(map(len, kind)), self._features([part for mine in kind for part in mine])) for kind in kinds]

    def _features(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._tokenizing:
            return dict(self._model.preprocess(inputs, prompt=self._prompt))

    def _whole_length(self, item: Item) -> int:
        """Tokens of an item's message, if nothing of it were cut."""
        with self._tokenizing:
            limit, self._model.max_seq_length = self._model.max_seq_length, UNLIMITED
            try:
                [length] = _lengths(self._model.preprocess([_message(item)], prompt=self._prompt))
            finally:
                self._model.max_seq_length = limit
        return length

    def _encode(self, inputs: Inputs) -> Vectors:
        normalize = self._spec.normalize
        by_kind = [(np.array(counts), self._forward(features)) for counts, features in inputs]
        rows = np.stack([means(vectors, counts, normalize=normalize) for counts, vectors in by_kind], axis=1)
        present = np.stack([counts > 0 for counts, _ in by_kind], axis=1)  # (items, kinds)
        return means(rows[present], present.sum(axis=1), normalize=normalize)

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> Vectors:
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = self._model(on_device)["sentence_embedding"]
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


def _message(item: Item) -> dict[str, Any]:
    """An item as the library takes it: the parts that it has."""
    parts = {"image": list(item.pictures), "text": item.text}
    return {name: value for name, value in parts.items() if value not in ([], None)}


def _lengths(features: dict[str, Any]) -> list[int]:
    """Tokens of each message."""
    lengths: list[int] = features[MASK].sum(dim=1).tolist()
    return lengths
