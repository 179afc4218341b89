"""Any model of transformers with `get_image_features` and `get_text_features`: CLIP, SigLIP, ALIGN and others."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from pipeline.encoders.base import Fingerprint, Pixels, Vectors, finish
from pipeline.encoders.batches import by_length
from pipeline.encoders.bfloat16 import prepare
from pipeline.encoders.lengths import longer
from pipeline.encoders.transforms import prepare_picture
from pipeline.machine import encoder_device, forwards_at_once, pictures_at_once, side_by_side, tokens_at_once
from schemas.encoders import EncoderSpec


class _Tower:
    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = pictures_at_once(spec.batch_size)
        self._spec = spec
        self._device = encoder_device()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
        self._processor = AutoProcessor.from_pretrained(folder, **options)  # type: ignore[no-untyped-call]
        self._model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options)
        prepare(self._model, identity.dtype, self._device)

    def _finish(self, features: Any) -> Vectors:
        vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


class ImageTower(_Tower):
    """An `ImageEncoder`: the projected image embedding."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        blank = io.BytesIO()
        Image.new("RGB", (32, 32)).save(blank, "PNG")
        self.dim = self.encode([self.preprocess(blank.getvalue())]).shape[1]

    def preprocess(self, image: bytes) -> Pixels:
        """(3, height, width), float32."""
        return prepare_picture(image, self._transform)

    def _transform(self, picture: Image.Image) -> Any:
        return self._processor.image_processor(images=picture, return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """In the joint space of pictures and texts."""
        return self._finish(self._model.get_image_features(pixel_values=torch.stack(list(pixels)).to(self._device)))


class TextTower(_Tower):
    """A `TextEncoder`: the projected text embedding."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        config = getattr(self._model.config, "text_config", self._model.config)
        self._longest = spec.max_tokens or config.max_position_embeddings
        # SigLIP was trained on texts padded to full length: it has no attention mask that would ignore padding.
        self._pad = "max_length" if "siglip" in self._model.config.model_type else "longest"
        self.dim = self._forward(self._tokens([""])).shape[1]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """In the joint space of pictures and texts. Longer texts are cut at the model's limit."""
        prompted = [self._spec.prompt + text for text in texts]
        tokens = self._processor.tokenizer(prompted, truncation=True, max_length=self._longest)["input_ids"]
        rows = np.empty((len(texts), self.dim), np.float32)
        batches = list(by_length([len(ids) for ids in tokens], tokens_at_once(self._spec.batch_tokens)))
        tokenized = (self._tokens([prompted[i] for i in batch]) for batch in batches)
        results = side_by_side(self._forward, tokenized, workers=forwards_at_once())
        for batch, vectors in zip(batches, results, strict=True):
            rows[batch] = vectors
        return rows

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the model reads."""
        return longer(self._processor.tokenizer, [self._spec.prompt + text for text in texts], self._longest)

    def _tokens(self, texts: list[str]) -> Any:
        return self._processor.tokenizer(
            texts, truncation=True, max_length=self._longest, padding=self._pad, return_tensors="pt"
        )

    @torch.inference_mode()
    def _forward(self, tokens: Any) -> Vectors:
        return self._finish(self._model.get_text_features(**tokens.to(self._device)))
