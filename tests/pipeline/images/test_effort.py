"""Files that would be slow to decode are refused by their structure; what honest encoders write is not."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from pipeline.images import effort
from pipeline.images.decode import decode
from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus

IMAGE = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10"
"""A scan that refines all coefficients of the first component, and has no data."""


def encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def width(body: bytes) -> int:
    return decode(body, max_side=384, quality=90, max_pixels=1_000_000).width


def refusal(body: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        width(body)
    assert caught.value.status is ImageStatus.TOO_MANY_PIXELS
    return caught.value.reason


def jpeg(scans: int = 0, header: bytes = b"", behind: bytes = b"") -> bytes:
    """A progressive JPEG of 10 + `scans` scans; `header` comes after its first 20 bytes, `behind` after its end."""
    body = encoded("JPEG", progressive=True)
    return body[:20] + header + body[20:-2] + SCAN * scans + body[-2:] + behind


def segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(between: bytes, behind: bytes = b"") -> bytes:
    body = encoded("PNG")
    return body[:33] + between + body[33:] + behind


def tiff(strips: int, order: str = "<") -> bytes:
    """A column of at most 64 grey pixels, one strip each; all strips are at the same place in the file."""
    height, offsets = min(strips, 64), 8 + 2 + 7 * 12 + 4
    entries = [
        (256, 3, 1, 1),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, offsets),
        (278, 3, 1, 1),
    ]
    packed = [
        struct.pack(order + ("HHIHH" if kind == 3 else "HHII"), tag, kind, count, value, *([0] * (kind == 3)))
        for tag, kind, count, value in entries
    ]
    magic = b"II*\0" if order == "<" else b"MM\0*"
    ifd = struct.pack(order + "IH", 8, len(entries)) + b"".join(packed) + bytes(4)
    return magic + ifd + struct.pack(order + "I", 8) * strips


def test_a_jpeg_of_many_scans_is_refused() -> None:
    most = effort.SCANS - 10
    assert width(jpeg(most)) == 40
    assert refusal(jpeg(most + 1)) == "decoding would take too long: more than 40 scans"
    baseline = encoded("JPEG")
    assert "scans" in refusal(baseline[:-2] + SCAN * effort.SCANS + baseline[-2:])


def test_scans_are_counted_whatever_hides_them_from_a_careless_reader() -> None:
    for before in (b"\xff", b"\0junk", b"\xff\xd3", b"\xff\x00", b"\xff\x05\xff\xff"):
        body = jpeg()
        assert "scans" in refusal(body[:-2] + (before + SCAN) * effort.SCANS + body[-2:]), before


def test_scans_that_are_not_the_pictures_own_do_not_count() -> None:
    others = SCAN * 5_000
    assert width(jpeg(header=segment(others[:60_000]) * 3, behind=others)) == 40


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_progressive_pictures_have_few_enough_scans(mode: str) -> None:
    body = encoded("JPEG", IMAGE.convert(mode), progressive=True)
    assert body.count(b"\xff\xda") < effort.SCANS / 2
    assert width(body) == 40


@pytest.mark.parametrize("filling", [b"\xff", b"\0", b"\xff\x00", b"\xff\xfe\0\2"])
def test_a_jpeg_whose_header_is_filled_up_is_refused(filling: bytes) -> None:
    assert width(jpeg(header=filling * 1000)) == 40
    assert "filling" in refusal(jpeg(header=filling * effort.HEADER_BYTES))


def test_a_png_of_many_chunks_or_profiles_is_refused() -> None:
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))
    assert width(png(chunk(b"prIv") * 1000 + profile, behind=bytes(12 * effort.CHUNKS))) == 40
    assert "chunks" in refusal(png(chunk(b"prIv") * effort.CHUNKS))
    assert "profiles" in refusal(png(profile * (effort.PROFILES + 1)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_many_strips_is_refused(order: str) -> None:
    assert width(tiff(64, order)) == 1
    assert refusal(tiff(effort.STRIPS + 1, order)).endswith("200,001 strips or tiles, more than 200,000")


def test_a_big_tiff_is_measured_as_well() -> None:
    assert width(encoded("TIFF", big_tiff=True)) == 40
    entry = struct.pack("<HHQQ", 273, 4, effort.STRIPS + 1, 16)
    assert "strips" in refusal(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1) + entry)
