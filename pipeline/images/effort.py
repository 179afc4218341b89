"""Refuses files that were made to be slow to decode, by their structure and before anything is decoded.

Without these limits, files of up to 20 MB and 50 million pixels cost a slow core: hours for a JPEG of many scans (37 ms
per scan of 97 bytes), 11 s for a JPEG whose header is filling, 47 s for a PNG of colour profiles, 6 s for a PNG of
empty chunks, 29 s for a TIFF of strips. With them the worst measured is 2 s, and 3.5 s for a JPEG inside a TIFF, whose
scans libtiff limits to 100.
"""

import re
from functools import partial
from typing import Literal

from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus

SCANS = 40
"""Per JPEG; each scan visits all pixels, even when the decoder shrinks. libjpeg writes up to 18 by default."""
HEADER_BYTES = 50_000
"""Per JPEG, in markers and between them; Pillow reads these bytes one at a time."""
CHUNKS = 50_000
"""Per PNG; 20 MB in chunks of 4 KB are 5,000."""
PROFILES = 20
"""Per PNG; the standard allows one, and each unpacks to a megabyte."""
STRIPS = 200_000
"""Per TIFF, strips or tiles; 50 million pixels in tiles of 16 × 16 are 195,000."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_OFFSETS = (273, 324)
"""The TIFF tags that list strips and tiles."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker that ends the segment before it: no fill byte (ff), stuffed zero or restart marker."""


def check(body: bytes) -> None:
    """Let everything pass that an honest encoder writes.

    Raises:
        PictureError: TOO_MANY_PIXELS, because pixels would be decoded too often; the reason names the limit.
    """
    if body.startswith(b"\xff\xd8\xff"):
        _check_jpeg(body)
    elif body.startswith(_PNG):
        _check_png(body)
    elif body.startswith(_TIFF):
        _check_tiff(body)


def _check_jpeg(body: bytes) -> None:
    """Goes from marker to marker like libjpeg, so scans of a thumbnail or of a video after the picture do not count."""
    scans = header = at = 0
    while (match := _MARKER.search(body, at)) is not None:
        header += 2 if scans else match.end() - at
        marker, at = match[1][0], match.end()
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        if marker >= 0xC0 and marker != 0xD8:
            at += max(2, int.from_bytes(body[at : at + 2]))
        if scans > SCANS:
            raise _refused(f"more than {SCANS} scans")
        if header > HEADER_BYTES:
            raise _refused(f"more than {HEADER_BYTES:,} bytes of markers and filling")


def _check_png(body: bytes) -> None:
    chunks = profiles = 0
    at = len(_PNG)
    while (kind := body[at + 4 : at + 8]) not in (b"", b"IEND"):
        chunks += 1
        profiles += kind == b"iCCP"
        at += 12 + int.from_bytes(body[at : at + 4])
        if chunks > CHUNKS:
            raise _refused(f"more than {CHUNKS:,} chunks")
        if profiles > PROFILES:
            raise _refused(f"more than {PROFILES} colour profiles")


def _check_tiff(body: bytes) -> None:
    order: Literal["little", "big"] = "little" if body.startswith(b"II") else "big"
    number = partial(int.from_bytes, byteorder=order)
    wide = body[2] == 43  # BigTIFF, by the byte that Pillow looks at
    at, size, width, entry = (number(body[8:16]), 8, 8, 20) if wide else (number(body[4:8]), 2, 4, 12)
    first = at + size
    end = min(len(body), first + entry * number(body[at:first]))
    for place in range(first, end, entry):
        count = number(body[place + 4 : place + 4 + width])
        if number(body[place : place + 2]) in _OFFSETS and count > STRIPS:
            raise _refused(f"{count:,} strips or tiles, more than {STRIPS:,}")


def _refused(why: str) -> PictureError:
    return PictureError(ImageStatus.TOO_MANY_PIXELS, f"decoding would take too long: {why}")
