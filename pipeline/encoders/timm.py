"""timm backbones: pooled features before the classifier, preprocessed as the model's own configuration says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]  # not in its __all__

from pipeline.encoders.base import Fingerprint, Pixels, Vectors, finish
from pipeline.encoders.bfloat16 import prepare
from pipeline.encoders.transforms import prepare_picture, split_transform
from pipeline.machine import encoder_device, pictures_at_once
from schemas.encoders import EncoderSpec


class TimmEncoder:
    """An `ImageEncoder` over a timm model folder (`config.json` and `model.safetensors`)."""

    def __init__(self, spec: EncoderSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = pictures_at_once(spec.batch_size)
        self._spec = spec
        self._device = encoder_device()
        size: dict[str, Any] = {} if spec.image_size is None else {"img_size": spec.image_size}
        self._model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **size)
        # Without the size, pictures would be resized to that of the model's own configuration, which it does not take.
        config = resolve_model_data_config(self._model, {"img_size": spec.image_size})  # type: ignore[no-untyped-call]
        transform = create_transform(**config, is_training=False)
        self._transform_picture, self._transform_batch = split_transform(transform)
        width: int = getattr(self._model, "num_features")  # noqa: B009 - the stub says Tensor | Module
        self.dim = min(width, spec.truncate_dim or width)
        prepare(self._model, identity.dtype, self._device)

    def preprocess(self, image: bytes) -> Pixels:
        """(3, height, width), uint8."""
        return prepare_picture(image, self._transform_picture)

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """Average-pooled features, or the class token, as the model pools."""
        vectors = self._model(self._transform_batch(torch.stack(list(pixels)).to(self._device)))
        return finish(vectors, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)
