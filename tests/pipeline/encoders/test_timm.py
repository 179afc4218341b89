"""The adapter of timm against the library itself."""

import io

import timm
import torch
from PIL import Image

from pipeline.encoders import offline
from pipeline.encoders.base import ImageEncoder
from schemas.encoders import PRESETS
from tests.support.real_models import cosines, encoder_of


def test_vectors_are_those_of_timm(drawings: list[bytes]) -> None:
    ours = encoder_of(PRESETS["offline"].encoders["vision"].model_copy(update={"dtype": "float32"}))
    assert isinstance(ours, ImageEncoder)
    model = timm.create_model(
        f"local-dir:{offline.unpack('efficientnet-lite0')}", pretrained=True, num_classes=0
    ).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        theirs = model(torch.stack([transform(Image.open(io.BytesIO(d)).convert("RGB")) for d in drawings])).numpy()
    vectors = ours.encode([ours.preprocess(drawing) for drawing in drawings])
    assert vectors.shape == (len(drawings), 1280)
    assert cosines(vectors, theirs).min() > 1 - 1e-6
