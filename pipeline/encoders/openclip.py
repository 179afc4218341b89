"""open_clip models from a folder: the image tower and the text tower, each an encoder of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from pipeline.encoders.base import Fingerprint, Pixels, Vectors, finish
from pipeline.encoders.batches import by_length
from pipeline.encoders.bfloat16 import prepare
from pipeline.encoders.lengths import longer
from pipeline.encoders.transforms import prepare_picture, split_transform
from pipeline.machine import encoder_device, forwards_at_once, pictures_at_once, side_by_side, tokens_at_once
from schemas.encoders import EncoderSpec


class _Tower:
    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = pictures_at_once(spec.batch_size)
        self._spec = spec
        self._device = encoder_device()
        config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        self._model = open_clip.create_model(f"local-dir:{folder}", device="cpu", **_local_text_tower(config, folder))
        self._name = f"local-dir:{folder}"
        self.dim = min(config["embed_dim"], spec.truncate_dim or config["embed_dim"])
        prepare(self._model, identity.dtype, self._device)

    def _finish(self, vectors: torch.Tensor) -> Vectors:
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


class ImageTower(_Tower):
    """An `ImageEncoder`: the projected image embedding."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        config = open_clip.transform.PreprocessCfg(**self._model.visual.preprocess_cfg)
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        self._transform_picture, self._transform_batch = split_transform(transform)

    def preprocess(self, image: bytes) -> Pixels:
        """(3, height, width), uint8."""
        return prepare_picture(image, self._transform_picture)

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """In the joint space of pictures and texts."""
        batch = self._transform_batch(torch.stack(list(pixels)).to(self._device))
        return self._finish(self._model.encode_image(batch))


class TextTower(_Tower):
    """A `TextEncoder`: the projected text embedding. Texts beyond the context length are cut."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        self._tokenize = open_clip.get_tokenizer(self._name, context_length=spec.max_tokens)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """In the joint space of pictures and texts."""
        tokens = self._tokenize([self._spec.prompt + text for text in texts])
        rows = np.empty((len(texts), self.dim), np.float32)
        batches = list(by_length([tokens.shape[1]] * len(texts), tokens_at_once(self._spec.batch_tokens)))
        results = side_by_side(self._forward, (tokens[batch] for batch in batches), workers=forwards_at_once())
        for batch, vectors in zip(batches, results, strict=True):
            rows[batch] = vectors
        return rows

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the context."""
        prompted, limit = [self._spec.prompt + text for text in texts], self._tokenize.context_length
        if (of_transformers := getattr(self._tokenize, "tokenizer", None)) is not None:
            return longer(of_transformers, prompted, limit)
        return [bool(tokens[limit]) for tokens in self._tokenize(prompted, context_length=limit + 1)]  # 0 is padding

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor) -> Vectors:
        return self._finish(self._model.encode_text(tokens.to(self._device)))


def _local_text_tower(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The folder's own copy of the text tower's configuration, which a tower from transformers names by a hub name."""
    if "hf_model_name" in config["text_cfg"] and (folder / "config.json").exists():
        return {"text_cfg": {**config["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}}
    return {}
