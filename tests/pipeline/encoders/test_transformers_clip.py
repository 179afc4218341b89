"""The adapters of a transformers CLIP against the library itself."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from schemas.encoders import EncoderSpec
from tests.support.real_models import TEXTS

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_vectors_of_both_towers_are_those_of_transformers(tmp_path: Path, drawings: list[bytes]) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(offline.unpack("minilm"))
    text = SMALL | {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "eos_token_id": tokenizer.sep_token_id}
    config = CLIPConfig(vision_config=SMALL | {"image_size": 64, "patch_size": 16}, text_config=text, projection_dim=24)
    model = CLIPModel(config).eval()
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    processor = CLIPProcessor(image_processor=CLIPImageProcessor(**size), tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    spec = EncoderSpec(kind="transformers_clip", model=str(tmp_path), dtype="float32", normalize=False)
    images = load.load(spec)
    texts = load.load(spec.model_copy(update={"kind": "transformers_clip_text", "batch_tokens": 16}))
    assert isinstance(images, ImageEncoder)
    assert isinstance(texts, TextEncoder)
    assert images.dim == texts.dim == 24
    inputs = processor(
        text=TEXTS[:1] + TEXTS[3:4],
        images=[Image.open(io.BytesIO(d)) for d in drawings],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        of_images = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output.numpy()
        of_texts = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output.numpy()
    np.testing.assert_allclose(images.encode([images.preprocess(d) for d in drawings]), of_images, atol=1e-5)
    np.testing.assert_allclose(texts.encode(TEXTS[:1] + TEXTS[3:4]), of_texts, atol=1e-5)
