"""The adapters of open_clip's two towers against the library itself."""

import io
import json

import numpy as np
import open_clip
import torch
from PIL import Image

from pipeline.encoders import offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from schemas.encoders import PRESETS
from tests.support.real_models import TEXTS, encoder_of


def test_vectors_of_both_towers_are_those_of_open_clip(drawings: list[bytes]) -> None:
    spec = PRESETS["offline"].encoders["clip"].model_copy(update={"dtype": "float32"})
    images, texts = encoder_of(spec), encoder_of(spec.model_copy(update={"kind": "open_clip_text"}))
    assert isinstance(images, ImageEncoder)
    assert isinstance(texts, TextEncoder)
    folder = offline.unpack("clip-stand-in")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    model, transform = open_clip.create_model_from_pretrained(
        f"local-dir:{folder}", text_cfg={**config, "hf_model_name": str(folder), "hf_model_pretrained": False}
    )
    model.eval()
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(io.BytesIO(d)).convert("RGB")) for d in drawings])
        of_images = model.encode_image(pixels, normalize=True).numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS[:2])
        of_texts = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(images.encode([images.preprocess(d) for d in drawings]), of_images, atol=1e-5)
    np.testing.assert_allclose(texts.encode(TEXTS[:2]), of_texts, atol=1e-5)
