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
        batches = list(by_length(self._lengths(texts), tokens_at_once(self._spec.batch_tokens)))
        prompt = self._spec.prompt or None
        tokenized = (self._model.preprocess([texts[i] for i in batch], prompt=prompt) for batch in batches)
        for batch, vectors in zip(batches, side_by_side(self._forward, tokenized), strict=True):
            rows[batch] = vectors
        return rows

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> Vectors:
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = self._model(on_device)["sentence_embedding"]
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens in each text, as the model will see it."""
        longest = self._model.max_seq_length or 512
        prompted = [self._spec.prompt + text for text in texts]
        tokens = self._model.tokenizer(prompted, truncation=True, max_length=longest, return_attention_mask=False)
        return [len(ids) for ids in tokens["input_ids"]]
