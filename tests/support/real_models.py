"""Real encoders, loaded once, and what their vectors are compared with."""

import functools
import shutil
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from pipeline.encoders import load, offline
from pipeline.encoders.base import Encoder
from schemas.encoders import EncoderSpec

TEXTS = [
    "a red striped mug",
    "Gift card for a very long list of reasons, " * 30,
    "",
    "x",
    "A lamp that Öttingen's grandmother would have liked — 40 cm, E27, 中文",
    "a blue mug",
]


@functools.cache
def encoder_of(spec: EncoderSpec) -> Encoder:
    """The encoder of `spec`, for tests that change nothing in it."""
    return load.load(spec)


def copy_model(folder: Path) -> Path:
    """A timm model in `folder`, for a test that changes its files."""
    return Path(shutil.copytree(offline.unpack("efficientnet-lite0"), folder / "model"))


def timm_at(folder: Path) -> EncoderSpec:
    """The spec of a timm model in a folder."""
    return EncoderSpec(kind="timm", model=str(folder))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row of `a` with the same row of `b`."""
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def tiny_clip(folder: Path) -> SentenceTransformer:
    """A CLIP of random weights, saved as a sentence-transformers folder."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(offline.unpack("minilm"), model_max_length=128)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = layers | {"vocab_size": len(tokenizer), "max_position_embeddings": 128}
    text |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    vision = layers | {"image_size": 64, "patch_size": 16}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    CLIPModel(config).save_pretrained(folder / "clip")
    CLIPProcessor(image_processor=CLIPImageProcessor(**size), tokenizer=tokenizer).save_pretrained(folder / "clip")
    model = SentenceTransformer(modules=[Transformer(str(folder / "clip"))], device="cpu")
    model.save_pretrained(str(folder / "model"))
    return model


def tiny_reader(folder: Path) -> SentenceTransformer:
    """The tiny LLaVA as an embedder that reads texts and pictures as one message."""
    kwargs = {"model_kwargs": {"dtype": torch.float32}}
    transformer = Transformer(str(offline.unpack("tiny-llava")), **kwargs)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.save_pretrained(str(folder / "model"))
    return model
