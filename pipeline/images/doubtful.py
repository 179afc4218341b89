"""What is doubtful about one picture that can be decoded: that it is tiny, or of one colour."""

import io

import numpy as np
from PIL import Image

from schemas.tables import ImageRemark

TINY = 16
"""Pixels; a picture with a shorter side is a tracking pixel or a spacer."""
TOLERANCE = 8
"""Difference of two levels, of 255, that a JPEG of one colour may have."""
_BYTES_PER_PIXEL, _HEADER = 1 / 32, 1024
"""A JPEG of one colour takes at most so much: 6 bits a block. A larger one need not be decoded."""


def remark(jpeg: bytes | None, width: int, height: int) -> ImageRemark | None:
    """What is doubtful about a stored picture; None if nothing is, or there is no picture."""
    if jpeg is None:
        return None
    if min(width, height) < TINY:
        return ImageRemark.TINY
    return ImageRemark.ONE_COLOUR if _is_of_one_colour(jpeg, width * height) else None


def _is_of_one_colour(jpeg: bytes, size: int) -> bool:
    if len(jpeg) > _HEADER + _BYTES_PER_PIXEL * size:
        return False
    with Image.open(io.BytesIO(jpeg)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return bool((np.ptp(pixels, axis=(0, 1)) <= TOLERANCE).all())
