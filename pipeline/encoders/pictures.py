"""From a stored picture to what an image tower takes."""

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from pipeline.encoders.base import Pixels


def prepared(image: bytes, transform: Callable[[Image.Image], Any]) -> Pixels:
    """Decode one picture and give it to a model's own transform: (channels, height, width), float32.

    Raises:
        OSError: the bytes are no readable picture, or one that the transform cannot take.
    """
    try:
        with Image.open(io.BytesIO(image)) as picture:
            pixels = transform(picture.convert("RGB"))
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's for a broken PNG
        raise OSError(f"{type(error).__name__}: {error}") from error
    assert isinstance(pixels, torch.Tensor)
    return pixels
