"""Files made so that decoding them takes long, refused by their structure before anything decodes them.

Without these limits, files of up to 20 MB and 50 million pixels took a slow core: 37 ms a JPEG's scan of 97 bytes, so
hours; 11 s a JPEG with filling for a header; 47 s a PNG of colour profiles, 6 s one of empty chunks; 29 s a TIFF of
strips. With them the worst found is 2 s, and 3.5 s a JPEG inside a TIFF, whose scans libtiff limits to 100.
"""

import re
from functools import partial
from typing import Literal

from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus

SCANS = 40
"""Of a JPEG; each goes over all pixels, whatever the shrinking. libjpeg writes up to 18 of its own accord."""
HEADER_BYTES = 50_000
"""Of a JPEG's markers and what stands between them, which Pillow reads one at a time."""
CHUNKS = 50_000
"""Of a PNG; 20 MB in pieces of 4 KB are 5,000."""
PROFILES = 20
"""Of a PNG, which may have one; each unpacks to a megabyte."""
STRIPS = 200_000
"""Of a TIFF, or tiles; 50 million pixels in tiles of 16 × 16 are 195,000."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_OFFSETS = (273, 324)
"""The TIFF tags that list strips and tiles."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""Neither fill (ff), a stuffed zero nor a restart, none of which ends what went before."""


def check(body: bytes) -> None:
    """Pass whatever an honest encoder writes.

    Raises:
        PictureError: TOO_MANY_PIXELS, to be decoded too often; the reason names what there is too much of.
    """
    if body.startswith(b"\xff\xd8\xff"):
        _check_jpeg(body)
    elif body.startswith(_PNG):
        _check_png(body)
    elif body.startswith(_TIFF):
        _check_tiff(body)


def _check_jpeg(body: bytes) -> None:
    """Goes from marker to marker as libjpeg does: neither a thumbnail nor a film behind the picture counts."""
    scans = header = at = 0
    while (found := _MARKER.search(body, at)) is not None:
        header += 2 if scans else found.end() - at
        marker, at = found[1][0], found.end()
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
    wide = body[2] == 43  # BigTIFF, as Pillow tells it
    at, size, width, entry = (number(body[8:16]), 8, 8, 20) if wide else (number(body[4:8]), 2, 4, 12)
    first = at + size
    end = min(len(body), first + entry * number(body[at:first]))
    for place in range(first, end, entry):
        count = number(body[place + 4 : place + 4 + width])
        if number(body[place : place + 2]) in _OFFSETS and count > STRIPS:
            raise _refused(f"{count:,} strips or tiles, more than {STRIPS:,}")


def _refused(why: str) -> PictureError:
    return PictureError(ImageStatus.TOO_MANY_PIXELS, f"decoding would take too long: {why}")
