"""sentence-transformers models: the library's own preprocessing, pooling and prompts; batches by length, not count."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from pipeline.encoders.base import Fingerprint, RefusedTextsError, Vectors, finish
from pipeline.encoders.batches import by_length
from pipeline.encoders.bfloat16 import prepare
from pipeline.encoders.lengths import longer
from pipeline.machine import encoder_device, forwards_at_once, side_by_side, tokens_at_once
from schemas.encoders import EncoderSpec

Features = dict[str, Any]
"""The model's input: tensors of (texts, tokens), and values that belong to all texts."""
MASK = "attention_mask"
TOKENIZER_BATCH = 64
"""Texts per call of the tokenizer."""


def loaded(spec: EncoderSpec, folder: Path) -> Any:
    """The library's model of a folder, in float32 on this process's device, which reads as far as `spec` says."""
    model = SentenceTransformer(
        str(folder),
        device=str(encoder_device()),
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
    )
    if spec.max_tokens is not None:
        model.max_seq_length = spec.max_tokens
    return model


def longer_than_read(model: Any, texts: Sequence[str]) -> list[bool]:
    """Which texts have more tokens than the library's model reads; a table of word vectors reads all."""
    limit = model.max_seq_length
    if limit is None or math.isinf(limit) or not isinstance(model.tokenizer, PreTrainedTokenizerBase):
        return [False] * len(texts)
    return longer(model.tokenizer, texts, limit)


class SentenceEncoder:
    """A `TextEncoder` over any sentence-transformers model folder."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self._spec = spec
        self._model: Any = loaded(spec, folder)
        prepare(self._model, identity.dtype, self._model.device)
        full = self._model.get_embedding_dimension() or 0
        self.dim = min(full, spec.truncate_dim or full)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Batches hold texts of similar length, at most `batch_tokens` tokens with padding.

        Raises:
            RefusedTextsError: some contain the mark for a picture of a model that reads pictures too.
        """
        rows = np.empty((len(texts), self.dim), np.float32)
        batches = self.tokenize(texts)
        results = side_by_side(self._forward, (features for _, features in batches), workers=forwards_at_once())
        for (indices, _), vectors in zip(batches, results, strict=True):
            rows[indices] = vectors
        return rows

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the model reads."""
        return longer_than_read(self._model, [self._spec.prompt + text for text in texts])

    def tokenize(self, texts: Sequence[str]) -> list[tuple[list[int], Features]]:
        """Batches, each as indices into `texts` and the model's input; every text is tokenized once.

        The library pads the texts of one call, so each call gets texts of about the same length in characters; the
        batches are then made by their true lengths in tokens.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = [order[start : start + TOKENIZER_BATCH] for start in range(0, len(order), TOKENIZER_BATCH)]
        tokenized = [self._preprocessed([texts[index] for index in part]) for part in parts]
        if all(map(_is_padded, tokenized)):
            return self._by_tokens(parts, tokenized)
        return list(zip(parts, tokenized, strict=True))  # such as a table of word vectors

    def _preprocessed(self, texts: list[str]) -> Features:
        """The library's own input of texts about as long as each other."""
        inputs: list[Any] = list(texts)
        if set(self._model.modalities) != {"text"}:  # such a model would fetch a bare text that is an address or a path
            inputs = [{"text": text} for text in texts]
        try:
            return dict(self._model.preprocess(inputs, prompt=self._spec.prompt or None))
        except ValueError as error:
            if len(texts) == 1:
                raise RefusedTextsError({texts[0]: str(error)}) from error
            reasons: dict[str, str] = {}
            for text in texts:
                try:
                    self._preprocessed([text])
                except RefusedTextsError as refused:
                    reasons |= refused.reasons
            if not reasons:
                raise
            raise RefusedTextsError(reasons) from error

    def _by_tokens(self, parts: list[list[int]], tokenized: list[Features]) -> list[tuple[list[int], Features]]:
        """The tokenized texts in new batches, by their lengths in tokens."""
        names = [name for name, value in tokenized[0].items() if isinstance(value, torch.Tensor)] if tokenized else []
        rows: dict[int, torch.Tensor] = {}  # index of the text → (tokens, names), without padding
        for part, features in zip(parts, tokenized, strict=True):
            mask = features[MASK].bool()
            columns = torch.stack([features[name] for name in names], dim=-1)
            rows |= zip(part, torch.split(columns[mask], mask.sum(dim=1).tolist()), strict=True)
        side = "left" if any(map(_is_padded_left, tokenized)) else "right"
        fill = getattr(self._model.tokenizer, "pad_token_id", None) or 0
        batches = []
        for indices in by_length([len(rows[i]) for i in range(len(rows))], tokens_at_once(self._spec.batch_tokens)):
            padded = pad_sequence([rows[i] for i in indices], batch_first=True, padding_side=side)
            features = tokenized[0] | dict(zip(names, padded.unbind(-1), strict=True))
            features["input_ids"].masked_fill_(features[MASK] == 0, fill)
            batches.append((indices, features))
        return batches

    @torch.inference_mode()
    def _forward(self, features: Features) -> Vectors:
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = self._model(on_device)["sentence_embedding"]
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


def _is_padded(features: Features) -> bool:
    """Whether all tensors hold one integer per text and token, and a mask says which tokens are real."""
    tensors = [value for value in features.values() if isinstance(value, torch.Tensor)]
    mask = features.get(MASK)
    return "input_ids" in features and all(
        mask is not None and value.shape == mask.shape and value.dtype == torch.int64 for value in tensors
    )


def _is_padded_left(features: Features) -> bool:
    mask = features[MASK]
    return bool(((mask[:, 0] == 0) & (mask[:, -1] == 1)).any())
