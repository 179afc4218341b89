"""Apple's GPU (MPS): an encoder computes there if its vectors are the processor's."""

import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pipeline.encoders.base import Encoder, Item, Vectors
from pipeline.machine import computing_on
from schemas.encoders import EncoderSpec

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""By how much the cosine may fall below 1: what the number of cores may change, see docs/reference/models.md."""
TEXTS = ("", "mug", "A red mug for coffee", "Eine blaue Lampe, 12 cm hoch; für den Tisch. " * 8)
PICTURES = ((32, 32), (300, 200))
"""Width and height."""


def load(make: Callable[[], Encoder], spec: EncoderSpec) -> Encoder:
    """The encoder on MPS, or on the processor if MPS gives other vectors of the samples above, or lacks an operation.

    Args:
        make: loads it on `machine.encoder_device()`; what it raises on the processor is raised.
    """
    with computing_on("cpu"):
        reference = make()
        expected = _samples(reference, spec)
    try:
        encoder = make()
        lowest = _lowest_cosine(expected, _samples(encoder, spec))
    except (RuntimeError, TypeError, ValueError) as error:  # TypeError: float64, which MPS does not have
        logger.warning("%s computes on the processor: MPS cannot compute it (%s)", spec.model, error)
        return _on_processor(reference)
    if lowest >= 1 - TOLERANCE:
        return encoder
    logger.warning("%s computes on the processor: on MPS the cosine to its vectors is only %.6f", spec.model, lowest)
    return _on_processor(reference)


def _on_processor(encoder: Any) -> Encoder:
    """The encoder, with as many threads and as large batches as suit the processor, not MPS."""
    encoder.encode = computing_on("cpu")(encoder.encode)
    on_processor: Encoder = encoder
    return on_processor


def _lowest_cosine(expected: Vectors, vectors: Vectors) -> float:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(vectors, axis=1)
    cosine = (expected * vectors).sum(axis=1) / np.maximum(lengths, 1e-12)
    return float(np.where((expected == vectors).all(axis=1), 1.0, cosine).min())  # NaN stays NaN, which is refused


def _samples(encoder: Any, spec: EncoderSpec) -> Vectors:
    pictures = [_gradient(*size) for size in PICTURES]
    match spec.modality:
        case "text":
            vectors: Vectors = encoder.encode(TEXTS)
        case "image":
            vectors = encoder.encode([encoder.preprocess(_png(picture)) for picture in pictures])
        case "multimodal":
            items = [Item(text, (picture,)) for text, picture in zip(TEXTS[1:], pictures, strict=False)]
            vectors = encoder.encode(encoder.preprocess(items))
    return vectors


def _gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, (across + down) % 256], axis=-1).astype(np.uint8))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
