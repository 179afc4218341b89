"""Whatever is wrong with one picture, the encoder says so in one way, and its stage makes a row of it."""

import io

import open_clip
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pipeline.encoders.transforms import prepare_picture, split_transform


def picture(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (9, 6)).save(out, kind)
    return out.getvalue()


def refuse(_: Image.Image) -> torch.Tensor:
    raise ValueError("too narrow")


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("GIF", "P")])
def test_every_picture_arrives_in_three_colours(kind: str, mode: str) -> None:
    assert prepare_picture(picture(kind, mode), to_tensor).shape == (3, 6, 9)


def png_with_a_damaged_header() -> bytes:
    whole = bytearray(picture("PNG"))
    whole[20] ^= 0xFF
    return bytes(whole)


@pytest.mark.parametrize(
    ("image", "transform", "reason"),
    [
        (b"", to_tensor, "cannot identify"),
        (picture("JPEG")[:300], to_tensor, None),
        (png_with_a_damaged_header(), to_tensor, None),
        (picture("PNG"), refuse, "ValueError: too narrow"),
    ],
    ids=["empty", "cut JPEG", "damaged PNG", "refused by the model's transform"],
)
def test_what_cannot_be_read_is_an_oserror(image: bytes, transform: object, reason: str | None) -> None:
    with pytest.raises(OSError, match=reason):
        prepare_picture(image, transform)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "whole",
    [
        timm.data.create_transform(input_size=(3, 32, 32), is_training=False),
        open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=32), is_train=False),
        to_tensor,
    ],
    ids=["timm", "open_clip", "one that cannot be split"],
)
def test_a_split_transform_gives_the_bits_of_the_whole(whole: object, drawings: list[bytes]) -> None:
    of_a_picture, of_a_batch = split_transform(whole)
    pixels = of_a_batch(torch.stack([prepare_picture(drawing, of_a_picture) for drawing in drawings]))
    expected = torch.stack([prepare_picture(drawing, whole) for drawing in drawings])  # type: ignore[arg-type]
    assert torch.equal(pixels, expected)
    assert (of_a_picture is whole) == (whole is to_tensor)
