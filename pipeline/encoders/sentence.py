"""sentence-transformers models: the library's own preprocessing, pooling, prompts; batches by length, not by count."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.utils.rnn import pad_sequence

from pipeline.encoders.base import Fingerprint, Vectors, finish
from pipeline.encoders.batches import by_length
from pipeline.encoders.bfloat16 import prepare
from pipeline.machine import device, forwards_at_once, side_by_side, tokens_at_once
from schemas.encoders import EncoderSpec

Features = dict[str, Any]
"""What the model reads: tensors of (texts, tokens), and what belongs to all texts."""
MASK = "attention_mask"
TOKENIZED = 64
"""Texts tokenized together."""


class SentenceEncoder:
    """A `TextEncoder` over any sentence-transformers model folder."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self._spec = spec
        self._model: Any = SentenceTransformer(
            str(folder),
            device=str(device()),
            trust_remote_code=spec.trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        if spec.max_tokens is not None:
            self._model.max_seq_length = spec.max_tokens
        prepare(self._model, identity.dtype)
        full = self._model.get_embedding_dimension() or 0
        self.dim = min(full, spec.truncate_dim or full)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Batches hold texts of like length, at most `batch_tokens` tokens with padding."""
        rows = np.empty((len(texts), self.dim), np.float32)
        batches = self.tokenized(texts)
        found = side_by_side(self._forward, (features for _, features in batches), workers=forwards_at_once())
        for (places, _), vectors in zip(batches, found, strict=True):
            rows[places] = vectors
        return rows

    def tokenized(self, texts: Sequence[str]) -> list[tuple[list[int], Features]]:
        """Batches as places in `texts` and what the model reads, each text tokenized once.

        The library pads what it tokenizes together, so texts of about one length go to it together; their true lengths
        then make the batches.
        """
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        parts = [order[start : start + TOKENIZED] for start in range(0, len(order), TOKENIZED)]
        prompt = self._spec.prompt or None
        found = [self._model.preprocess([texts[place] for place in part], prompt=prompt) for part in parts]
        if not all(map(_is_padded, found)):  # such as a table of word vectors
            return list(zip(parts, found, strict=True))
        names = [name for name, value in found[0].items() if isinstance(value, torch.Tensor)] if found else []
        rows: dict[int, torch.Tensor] = {}  # place → (tokens, names), without padding
        for part, features in zip(parts, found, strict=True):
            known = features[MASK].bool()
            together = torch.stack([features[name] for name in names], dim=-1)
            rows |= zip(part, torch.split(together[known], known.sum(dim=1).tolist()), strict=True)
        side = "left" if any(map(_is_padded_left, found)) else "right"
        fill = getattr(self._model.tokenizer, "pad_token_id", None) or 0
        batches = []
        for places in by_length([len(rows[i]) for i in range(len(texts))], tokens_at_once(self._spec.batch_tokens)):
            padded = pad_sequence([rows[i] for i in places], batch_first=True, padding_side=side)
            features = found[0] | dict(zip(names, padded.unbind(-1), strict=True))
            features["input_ids"].masked_fill_(features[MASK] == 0, fill)
            batches.append((places, features))
        return batches

    @torch.inference_mode()
    def _forward(self, features: Features) -> Vectors:
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = self._model(on_device)["sentence_embedding"]
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


def _is_padded(features: Features) -> bool:
    """Whether all tensors are whole numbers, one for each text and token, and a mask says which tokens are real."""
    tensors = [value for value in features.values() if isinstance(value, torch.Tensor)]
    like = features.get(MASK)
    return "input_ids" in features and all(
        like is not None and value.shape == like.shape and value.dtype == torch.int64 for value in tensors
    )


def _is_padded_left(features: Features) -> bool:
    mask = features[MASK]
    return bool(((mask[:, 0] == 0) & (mask[:, -1] == 1)).any())
