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
from pipeline.encoders.transforms import in_two, prepared
from pipeline.machine import device, forwards_at_once, pictures_at_once, side_by_side, tokens_at_once
from schemas.encoders import EncoderSpec


class _Tower:
    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = pictures_at_once(spec.batch_size)
        self._spec = spec
        config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        self._model = open_clip.create_model(f"local-dir:{folder}", device="cpu", **_local_text_tower(config, folder))
        self._name = f"local-dir:{folder}"
        self.dim = min(config["embed_dim"], spec.truncate_dim or config["embed_dim"])
        prepare(self._model, identity.dtype)

    def _finish(self, vectors: torch.Tensor) -> Vectors:
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)


class ImageTower(_Tower):
    """An `ImageEncoder`: the projected image embedding."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        config = open_clip.transform.PreprocessCfg(**self._model.visual.preprocess_cfg)
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        self._of_a_picture, self._of_a_batch = in_two(transform)

    def preprocess(self, image: bytes) -> Pixels:
        """(3, height, width), whole numbers up to 255."""
        return prepared(image, self._of_a_picture)

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """In the joint space of pictures and words."""
        batch = self._of_a_batch(torch.stack(list(pixels)).to(device()))
        return self._finish(self._model.encode_image(batch))


class TextTower(_Tower):
    """A `TextEncoder`: the projected text embedding. Texts beyond the context length are cut."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        super().__init__(spec, folder, identity)
        self._tokenize = open_clip.get_tokenizer(self._name, context_length=spec.max_tokens)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """In the joint space of pictures and words."""
        tokens = self._tokenize([self._spec.prompt + text for text in texts])
        rows = np.empty((len(texts), self.dim), np.float32)
        batches = list(by_length([tokens.shape[1]] * len(texts), tokens_at_once(self._spec.batch_tokens)))
        found = side_by_side(self._forward, (tokens[batch] for batch in batches), workers=forwards_at_once())
        for batch, vectors in zip(batches, found, strict=True):
            rows[batch] = vectors
        return rows

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor) -> Vectors:
        return self._finish(self._model.encode_text(tokens.to(device())))


def _local_text_tower(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A text tower from transformers names its configuration by a hub name; take the folder's own copy instead."""
    if "hf_model_name" in config["text_cfg"] and (folder / "config.json").exists():
        return {"text_cfg": {**config["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}}
    return {}
