"""sentence-transformers models: the library's own preprocessing, pooling, prompts; batches by length, not by count."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from pipeline.encoders.base import Fingerprint, Vectors, finish
from pipeline.encoders.batches import by_length
from pipeline.encoders.compute import prepare, side_by_side
from pipeline.encoders.settings import device, tokens_at_once
from schemas.features import EncoderSpec


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
        for (places, _), vectors in zip(batches, side_by_side(self._forward, (f for _, f in batches)), strict=True):
            rows[places] = vectors
        return rows

    def tokenized(self, texts: Sequence[str]) -> list[tuple[list[int], dict[str, Any]]]:
        """Batches as places in `texts` and what the model reads, each text tokenized once."""
        features = self._model.preprocess(list(texts), prompt=self._spec.prompt or None)
        if "attention_mask" not in features:  # a table of word vectors: nothing is padded
            return [([*range(len(texts))], features)]
        lengths = features["attention_mask"].sum(dim=1).tolist()
        batches = by_length(lengths, tokens_at_once(self._spec.batch_tokens))
        return [(batch, _part(features, batch, max(lengths[i] for i in batch))) for batch in batches]

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> Vectors:
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = self._model(on_device)["sentence_embedding"]
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


def _part(features: dict[str, Any], batch: list[int], longest: int) -> dict[str, Any]:
    """Some texts' features, without the padding that only longer texts needed."""
    padded = features["attention_mask"].shape
    width = slice(longest) if bool(features["attention_mask"][:, 0].all()) else slice(padded[1] - longest, None)

    def cut(value: Any) -> Any:
        whole = isinstance(value, torch.Tensor) and value.shape == padded
        return value[batch][:, width] if whole else value

    return {name: cut(value) for name, value in features.items()}
