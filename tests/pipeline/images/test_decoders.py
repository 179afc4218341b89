"""A picture costs at most its budget of time and memory, whatever its format; nothing it does stops the others."""

import asyncio
import io
import struct
from collections.abc import Sequence
from typing import Any

import joblib
import psutil
import pytest
from PIL import Image

from pipeline.images import decoders as decoders_module
from pipeline.images.decode import Picture
from pipeline.images.decoders import Decoders
from pipeline.images.outcome import PictureError
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus
from tests.support.chaos_server import jpeg, png_bomb


def slow_bmp(number: int) -> bytes:
    """About a kilobyte that says it has 50 million pixels, which Pillow's Python code then fills one row at a time."""
    palette = struct.pack("<I", number) + bytes(4 * 255)
    data = b"\1\x11\0\0\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 49_999_999, 1, 1, 8, 1, len(data), 0, 0, 256, 0)
    return (
        b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(data), 0, 0, 54 + len(palette)) + header + palette + data
    )


def slow_jpeg() -> bytes:
    """A JPEG whose thousands of EXIF segments Pillow joins one by one."""
    segment = b"Exif\0\0" + bytes(80)
    return b"\xff\xd8" + (b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment) * 24_900 + jpeg(1)[2:]


def large_webp(side: int) -> bytes:
    """A few bytes that unpack to side × side transparent pixels."""
    out = io.BytesIO()
    Image.new("RGBA", (side, side)).save(out, "WEBP", lossless=True, method=0)
    return out.getvalue()


def decoded(bodies: Sequence[bytes], **changes: Any) -> list[Picture | PictureError]:
    """What becomes of all these bodies at once."""

    async def run() -> list[Any]:
        async with Decoders(ImagesConfig(**changes)) as decoders:
            return await asyncio.gather(*map(decoders.decode, bodies), return_exceptions=True)

    return asyncio.run(run())


def statuses(results: Sequence[Picture | PictureError]) -> list[ImageStatus]:
    return [result.status if isinstance(result, PictureError) else ImageStatus.OK for result in results]


def test_slow_pictures_end_as_rows_and_those_beside_them_arrive() -> None:
    results = decoded([slow_bmp(0), slow_jpeg(), *map(jpeg, range(20)), slow_bmp(1)], max_decode_seconds=0.2)
    assert statuses(results) == [ImageStatus.TOO_SLOW] * 2 + [ImageStatus.OK] * 20 + [ImageStatus.TOO_SLOW]
    assert str(results[0]) == "decoding takes more than 0.2 s of CPU time"


def test_a_budget_is_for_each_picture_and_not_for_all_of_a_decoder() -> None:
    body = large_webp(1000)
    assert set(statuses(decoded([body] * 30, max_decode_seconds=0.3))) == {ImageStatus.OK}


def test_a_picture_that_needs_more_memory_than_a_decoders_share_is_decoded_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoders_module, "EACH", 16 << 20)
    results = decoded([large_webp(2000), *map(jpeg, range(8))], max_pixels=4_000_000)
    assert set(statuses(results)) == {ImageStatus.OK}


def test_a_picture_that_needs_more_memory_than_the_largest_allowed_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoders_module, "BYTES_PER_PIXEL", 1)
    results = decoded([png_bomb(8000), jpeg(1)], max_pixels=64_000_000, max_bytes=1 << 20)
    assert statuses(results) == [ImageStatus.TOO_LARGE, ImageStatus.OK]
    assert "MB of memory" in str(results[0])


@pytest.mark.parametrize("allowed", [1, 20])
def test_where_the_system_bounds_no_memory_a_decoder_ends_itself(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """As on macOS, which refuses RLIMIT_AS. `allowed`: bytes per pixel."""
    start = """
import resource, sys
import psutil  # Linux's
sys.platform = "darwin"
def refused(which, limits):
    assert which == resource.RLIMIT_CORE
resource.setrlimit = refused
"""
    monkeypatch.setattr(decoders_module, "_START", start + decoders_module._START)
    monkeypatch.setattr(decoders_module, "BYTES_PER_PIXEL", allowed)
    results = decoded([large_webp(2000), jpeg(1)], max_pixels=4_000_000, max_bytes=1 << 20)
    assert statuses(results) == [ImageStatus.TOO_LARGE if allowed == 1 else ImageStatus.OK, ImageStatus.OK]


@pytest.mark.parametrize("cores", [1, 2, 8, 16, 64, 256])
def test_memory_is_bounded_whatever_the_number_of_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    decoders = Decoders(ImagesConfig())
    assert decoders.memory <= 3.2 * 2**30
    assert decoders.count == min(cores, decoders_module.MOST)


def test_a_decoder_that_crashes_costs_its_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    start = """
import json, os, sys; sys.path[:] = json.loads(sys.argv[1])
from pipeline.images import decoder
real = decoder.decode
decoder.decode = lambda body, **options: os.abort() if body == b"crash" else real(body, **options)
decoder.main()
"""
    monkeypatch.setattr(decoders_module, "_START", start)
    results = decoded([b"crash", jpeg(1), b"crash", jpeg(2), jpeg(3)])
    ok, crash = ImageStatus.OK, ImageStatus.DECODE_ERROR
    assert statuses(results) == [crash, ok, crash, ok, ok]
    assert str(results[0]) == "the decoder crashed: SIGABRT"


def test_a_decoder_that_does_not_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_module, "_START", "raise SystemExit(3)")
    (result,) = decoded([jpeg(1)])
    assert str(result) == "A decoder of pictures did not start: status 3. See its message above."


def test_no_decoder_is_left_behind() -> None:
    async def run() -> None:
        async with Decoders(ImagesConfig()) as decoders:
            cancelled = asyncio.create_task(decoders.decode(slow_bmp(0)))
            await decoders.decode(jpeg(1))
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await decoders.decode(jpeg(2))

    before = psutil.Process().children()
    asyncio.run(run())
    assert psutil.Process().children() == before
