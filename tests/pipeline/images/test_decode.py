"""Decoding: whatever a shop serves becomes an upright RGB JPEG of bounded size, or a stated reason."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from pipeline.images.decode import Undecodable, decode
from schemas.tables import ImageStatus
from tests.support.chaos_server import png_bomb

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rendered(body: bytes, max_side: int = 64) -> Image.Image:
    picture = decode(body, max_side=max_side, quality=95, max_pixels=10_000_000)
    image = Image.open(io.BytesIO(picture.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (picture.width, picture.height))
    return image


def refusal(body: bytes, max_pixels: int = 10_000_000) -> ImageStatus:
    with pytest.raises(Undecodable) as caught:
        decode(body, max_side=64, quality=90, max_pixels=max_pixels)
    assert caught.value.reason
    return ImageStatus(caught.value.status)


def near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    pixel = image.getpixel(at)
    return max(abs(int(a) - b) for a, b in zip(np.asarray(pixel).tolist(), colour, strict=True)) <= tolerance


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left red, right green."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    return image


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        pytest.param(
            "AVIF",
            {"quality": 95},
            marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF"),
        ),
    ],
)
def test_every_format_gives_the_same_picture(kind: str, options: dict[str, Any]) -> None:
    image = rendered(encoded(halves(), kind, **options))
    assert image.size == (40, 20)
    assert near(image, (5, 10), RED)
    assert near(image, (35, 10), GREEN)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16", "I", "RGBA"])
def test_every_mode_keeps_a_grey_grey(mode: str) -> None:
    level = 255 if mode == "1" else 128
    grey = Image.new("L", (32, 32), level)
    if mode in ("I;16", "I"):
        grey = Image.fromarray(np.full((32, 32), level * 257, np.uint16))
    image = grey if mode in ("I;16", "I") else grey.convert(mode)
    kind = "TIFF" if mode in ("CMYK", "I") else "PNG"
    assert near(rendered(encoded(image, kind)), (16, 16), (level, level, level), tolerance=3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_tiff_of_32_bit_numbers_is_refused_rather_than_black(dtype: type) -> None:
    assert refusal(encoded(Image.fromarray(np.ones((32, 32), dtype)), "TIFF")) is ImageStatus.DECODE_ERROR


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    assert near(rendered(encoded(halves().convert("CMYK"), "JPEG", quality=95)), (5, 10), RED, tolerance=20)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    clear.paste((*RED, 255), (16, 0, 32, 32))
    for body in (encoded(clear, "PNG"), encoded(clear, "WEBP", lossless=True), encoded(clear.quantize(), "PNG")):
        image = rendered(body)
        assert near(image, (4, 16), WHITE)
        assert near(image, (28, 16), RED)
    keyed = encoded(halves((32, 32)), "PNG", transparency=RED)
    assert near(rendered(keyed), (4, 16), WHITE)


def test_an_edge_to_transparency_takes_no_colour_from_what_is_hidden() -> None:
    image = Image.new("RGBA", (256, 256), (*GREEN, 255))
    image.paste((255, 0, 255, 0), (0, 0, 127, 256))
    small = np.asarray(rendered(encoded(image, "PNG"), max_side=16)).astype(int)
    assert (small[..., 1] >= small[..., 0] - 12).all(), "hidden magenta bled into the picture"


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    for kind in ("GIF", "WEBP", "PNG"):
        body = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        assert near(rendered(body), (8, 8), RED), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = halves((40, 20))
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    same = {2: Image.Transpose.FLIP_LEFT_RIGHT, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE}
    same[7] = Image.Transpose.TRANSVERSE
    turn = (inverse | same).get(orientation)
    stored = upright.transpose(turn) if turn is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = rendered(encoded(stored, "JPEG", quality=95, exif=exif), max_side=20)
    assert image.size == (20, 10)
    assert near(image, (3, 5), RED)
    assert near(image, (16, 5), GREEN)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_exif_block_does_not_lose_the_picture() -> None:
    body = encoded(halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert rendered(body).size == (40, 20)


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 320), (64, 32)), ((3, 900), (1, 64)), ((64, 64), (64, 64)), ((5, 3), (5, 3))]
)
def test_pictures_shrink_to_the_bound_and_never_grow(size: tuple[int, int], expected: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        assert rendered(encoded(halves(size), kind)).size == expected


def test_shrinking_is_close_to_a_filter_over_all_pixels() -> None:
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70), np.uint8))
    body = encoded(coarse.resize((700, 500), Image.Resampling.BICUBIC).convert("RGB"), "JPEG", quality=95)
    reference = Image.open(io.BytesIO(body)).resize((128, 91), Image.Resampling.LANCZOS)
    difference = np.asarray(rendered(body, max_side=128)).astype(float) - np.asarray(reference).astype(float)
    assert np.abs(difference).mean() < 0.15 * np.asarray(reference).std()


def test_more_pixels_than_allowed_are_not_decoded() -> None:
    assert refusal(encoded(halves((101, 100)), "PNG"), max_pixels=10_000) is ImageStatus.TOO_MANY_PIXELS
    assert refusal(png_bomb(4000)) is ImageStatus.TOO_MANY_PIXELS
    assert decode(encoded(halves((100, 100)), "PNG"), max_side=64, quality=90, max_pixels=10_000).width == 64


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_file_is_a_decode_error(kind: str) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    body = encoded(noise, kind)
    assert refusal(body[: len(body) // 2]) is ImageStatus.DECODE_ERROR
    assert refusal(body[:14]) is ImageStatus.DECODE_ERROR


def test_what_is_no_picture_is_named_so() -> None:
    assert refusal(b"") is ImageStatus.EMPTY
    for body in (b"<!DOCTYPE html>", b'{"error": 1}', b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg xmlns='x'/>", b"\0" * 99):
        assert refusal(body) is ImageStatus.NOT_AN_IMAGE


SAMPLES = [encoded(halves(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_raise_nothing_but_the_stated_error(body: bytes, damage: list[tuple[int, int]]) -> None:
    changed = bytearray(body)
    for position, value in damage:
        changed[position % len(changed)] = value
    with contextlib.suppress(Undecodable):
        decode(bytes(changed), max_side=16, quality=80, max_pixels=1_000_000)
