"""Turns a server's bytes into a JPEG of bounded size, or a reason. Only the bytes count, not a header or a name.

It runs in the processes of `decoder`, which bound its time and memory. They import nothing but Pillow, so that they
start quickly; that is why a status is a plain string here.
"""

import io
import logging
import re
import warnings
from dataclasses import dataclass

from PIL import AvifImagePlugin, Image, UnidentifiedImageError

logger = logging.getLogger(__name__)

CODEC_VERSION = 2
"""Raised when the same bytes and configuration would give another JPEG, or none; part of the cache's namespace."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_OTHERS = {
    "HTML": (b"<!doctype html", b"<html", b"<head", b"<title", b"<body"),
    "SVG": (b"<svg",),
    "XML": (b"<?xml",),
    "JSON": (b"{", b"["),
    "PDF": (b"%pdf",),
    "PostScript": (b"%!ps",),
    "a video": (b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftyp", b"\0\0\0\x1cftyp", b"\0\0\0 ftyp"),
}
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `max_pixels` is checked before any pixel is decoded, so Pillow's own warning about size is noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
Image.init()  # registers every format now, not with the first picture
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the processes themselves use the cores
FORMATS = tuple(name for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF") if name in Image.OPEN)
"""Other formats are not opened: Pillow also reads PostScript, FITS and more that no shop serves as a picture."""


_QUOTED = re.compile(r"""b?'[^']*'?|b?"[^"]*"?|\d[\w.]*""")
"""What Pillow's messages quote of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture, oriented, resized and encoded as a JPEG; `width` and `height` in pixels."""

    jpeg: bytes
    width: int
    height: int


class Undecodable(Exception):  # noqa: N818 - says what the bytes are
    """There is no picture in these bytes: `status` is an `ImageStatus`, `reason` says why and quotes none of them."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def decode(body: bytes, *, max_side: int, quality: int, max_pixels: int) -> Picture:
    """Open, orient, flatten onto white, shrink to `max_side` pixels, encode as JPEG; the first frame of an animation.

    Raises:
        Undecodable: empty, not_an_image, too_many_pixels or decode_error (truncated or damaged).
        MemoryError: the process may not have as much as it takes.
    """
    if not body:
        raise Undecodable("empty", "the answer has no bytes")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            return _render(image, max_side, quality, max_pixels)
    except (Undecodable, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise _unidentified(body) from error
    except Exception as error:  # damaged files make decoders raise anything, from struct.error up
        raise Undecodable("decode_error", f"{type(error).__name__}: {_QUOTED.sub('…', str(error))}") from error


def _render(image: Image.Image, max_side: int, quality: int, max_pixels: int) -> Picture:
    if image.width * image.height > max_pixels:
        raise Undecodable(
            "too_many_pixels", f"{image.width} × {image.height} pixels, more than the limit of {max_pixels:,}"
        )
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise Undecodable("decode_error", "a TIFF of 32-bit numbers does not say which are black and white")
    scale = max_side / max(image.width, image.height)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image.draft(None, size)  # lets libjpeg shrink while decoding, never below `size`
    image.load()
    flat = _rgb(_eight_bit(image))
    if scale < 1:
        flat = flat.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)
    flat = _on_white(flat)
    transpose = _TRANSPOSE.get(_orientation(image))
    if transpose is not None:
        flat = flat.transpose(transpose)
    out = io.BytesIO()
    flat.save(out, "JPEG", quality=quality)
    return Picture(jpeg=out.getvalue(), width=flat.width, height=flat.height)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """RGB, or RGBA if the picture has transparency (a channel, a palette entry or a colour key)."""
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = "RGBA" if transparent else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception as error:  # noqa: BLE001 - a damaged EXIF block is no reason to lose the picture
        logger.debug("EXIF not readable: %s", error)
        return 1


def _unidentified(body: bytes) -> Undecodable:
    """A picture's magic number means a damaged picture; anything else is no picture, e.g. an error page.

    Not one byte is quoted: a catalogue may lead to a service whose answers are nobody's business.
    """
    riff = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    if riff or body.startswith(_MAGIC) or body[4:12] in (b"ftypavif", b"ftypavis"):
        return Undecodable("decode_error", "the file is damaged or cut off at its beginning")
    start = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next((name for name, marks in _OTHERS.items() if start.startswith(marks)), "nothing known")
    return Undecodable("not_an_image", f"not a picture of a known format; it looks like {kind}")
