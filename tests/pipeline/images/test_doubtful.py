"""What is doubtful about a picture that can be decoded."""

import io

import pytest
from PIL import Image, ImageDraw

from pipeline.images.doubtful import remark


def stored(image: Image.Image) -> tuple[bytes, int, int]:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue(), *image.size


@pytest.mark.parametrize("size", [(1, 1), (15, 15), (600, 2)])
def test_a_tracking_pixel_and_a_spacer_are_tiny(size: tuple[int, int]) -> None:
    assert remark(*stored(Image.new("RGB", size, "white"))) == "tiny"


@pytest.mark.parametrize("size", [(16, 16), (384, 384), (384, 20)])
@pytest.mark.parametrize("colour", ["white", "#f2f2f2", "#d01060"])
def test_a_picture_of_one_colour_is_known_at_any_size(size: tuple[int, int], colour: str) -> None:
    assert remark(*stored(Image.new("RGB", size, colour))) == "one_colour"


def test_a_small_line_on_white_is_a_picture() -> None:
    image = Image.new("RGB", (384, 384), "white")
    ImageDraw.Draw(image).line((180, 190, 200, 190), fill="#606060", width=2)
    assert remark(*stored(image)) is None
    assert remark(*stored(Image.radial_gradient("L").convert("RGB"))) is None


def test_without_a_picture_there_is_nothing_to_remark() -> None:
    assert remark(None, 0, 0) is None
