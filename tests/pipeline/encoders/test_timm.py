"""The adapter of timm against the library itself."""

import io
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder
from schemas.encoders import PRESETS
from tests.support.real_models import cosines, encoder_of, timm_at


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


def test_a_model_of_fixed_size_reads_pictures_of_the_size_asked_for(tmp_path: Path, drawings: list[bytes]) -> None:
    torch.manual_seed(0)
    fixed = {"dynamic_img_size": False}
    vit = timm.create_model("test_vit", num_classes=0, **fixed)  # of 160 px
    save_for_hf(vit, tmp_path / "vit", model_args=fixed, safe_serialization=True)
    spec = timm_at(tmp_path / "vit").model_copy(update={"image_size": 96, "dtype": "float32"})
    ours = load.load(spec)
    assert isinstance(ours, ImageEncoder)
    pixels = [ours.preprocess(drawing) for drawing in drawings]
    assert {tuple(picture.shape) for picture in pixels} == {(3, 96, 96)}
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True, num_classes=0, img_size=96).eval()
    config = timm.data.resolve_model_data_config(model) | {"input_size": (3, 96, 96)}
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        theirs = model(torch.stack([transform(Image.open(io.BytesIO(d)).convert("RGB")) for d in drawings])).numpy()
    assert cosines(ours.encode(pixels), theirs).min() > 1 - 1e-6
