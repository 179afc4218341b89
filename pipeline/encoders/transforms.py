"""From a stored picture to the input of an image tower."""

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, PILToTensor, ToTensor, functional

from pipeline.encoders.base import Pixels


def split_transform(transform: Any) -> tuple[Callable[[Image.Image], Any], Callable[[Tensor], Tensor]]:
    """A model's own transform in two: what is done to each picture, and what is done to a batch on the model's device.

    Scaling and normalizing move to the batch. The result is bit for bit the same; picture by picture, the two would
    take half as long as decoding and resizing, in threads that wait for each other. A picture that waits for its batch
    also takes a quarter of the memory. A transform that does not end with these two steps stays whole.
    """
    match getattr(transform, "transforms", None):
        case [*steps, ToTensor(), Normalize() as last]:

            def arithmetic(batch: Tensor) -> Tensor:
                scaled = batch.to(torch.float32).div_(255)
                functional.normalize(scaled, last.mean, last.std, inplace=True)
                return scaled

            return Compose([*steps, PILToTensor()]), arithmetic
    return transform, lambda batch: batch


def prepare_picture(image: bytes, transform: Callable[[Image.Image], Any]) -> Pixels:
    """Decode one picture and apply a model's own transform: (channels, height, width).

    Raises:
        OSError: the bytes are not a readable picture, or one that the transform refuses.
    """
    pixels = read_picture(image, transform)
    assert isinstance(pixels, torch.Tensor)
    return pixels


def read_picture(image: bytes, transform: Callable[[Image.Image], Any] = lambda picture: picture) -> Any:
    """Decode one picture and apply `transform`; by default the RGB picture itself.

    Raises:
        OSError: as `prepare_picture`.
    """
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return transform(picture.convert("RGB"))
    except (
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # SyntaxError: from Pillow, for a broken PNG
        raise OSError(f"{type(error).__name__}: {error}") from error
