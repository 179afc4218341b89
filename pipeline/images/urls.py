"""A catalogue's text as a URL, whose path and query are sent byte for byte, and the host that it counts against."""

import re
from base64 import b64decode
from urllib.parse import quote, unquote_to_bytes

from yarl import URL

from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus

_REMOVED = {ord(character): None for character in "\t\r\n"}
"""Removed from a URL, as browsers do."""
_TARGET = re.compile(r"(?:[a-z][a-z\d+.-]*:)?(?://[^/?#]*)?([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
"""Captures path and query."""
_ILLEGAL = re.compile(r"%(?![\da-f]{2})|[^\w.~!$&'()*+,;=:@/?\[\]%-]", re.IGNORECASE | re.ASCII)
"""A percent sign that escapes nothing, or a character that no URI may contain."""


def parse_url(text: str) -> URL:
    """A catalogue's text as an absolute http, https or file URL: what a page's `src` would load.

    So a URL without a scheme (`//cdn.example/a.jpg`) is https, and `&amp;` is an ampersand.

    Raises:
        PictureError: INVALID_URL.
    """
    text = text.strip().replace("&amp;", "&")
    try:
        url = as_written(f"https:{text}" if text.startswith("//") else text)
        host, port = url.host, url.port  # inside `try`: yarl notices malformed punycode only now
    except ValueError as error:
        raise PictureError(ImageStatus.INVALID_URL, str(error)) from error
    if not url.scheme:
        raise PictureError(ImageStatus.INVALID_URL, "no scheme such as https://, and no place that it is relative to")
    if url.scheme not in ("http", "https", "file"):
        raise PictureError(ImageStatus.INVALID_URL, f"scheme {url.scheme!r} is not http or https")
    if url.scheme != "file" and (not host or not port):
        raise PictureError(ImageStatus.INVALID_URL, "the URL names no host")
    return url


def is_data(text: str) -> bool:
    """Whether a catalogue's text is a `data:` URL, which holds the picture itself."""
    return text.lstrip()[:5].lower() == "data:"


def data_of(text: str) -> bytes:
    """The bytes of a `data:` URL (RFC 2397); its media type is not looked at.

    Raises:
        PictureError: INVALID_URL.
    """
    head, comma, data = text.strip().partition(",")
    if not comma:
        raise PictureError(ImageStatus.INVALID_URL, "a data: URL without a comma")
    content = unquote_to_bytes(data)
    if not head.lower().rstrip().endswith(";base64"):
        return content
    try:
        return b64decode(b"".join(content.split()) + b"==")
    except ValueError as error:
        raise PictureError(ImageStatus.INVALID_URL, "a data: URL that is not base64") from error


def as_written(text: str) -> URL:
    """A URL or a reference whose path and query are sent unchanged, because they may be signed.

    Only what no URI may contain is escaped (RFC 3986). yarl's own parsing would also unescape, e.g. `%2F` in a query.

    Raises:
        ValueError: the text is not a URL.
    """
    text = text.translate(_REMOVED)
    url = URL(text)
    if url.scheme == "file":
        return url
    parts = _TARGET.match(text)
    assert parts is not None  # every part may be empty
    path, query = (_ILLEGAL.sub(_escape, part or "") for part in parts.groups())
    return URL.build(scheme=url.scheme, authority=url.raw_authority, path=path, query_string=query, encoded=True)


def host_name(url: URL) -> str:
    """`host:port`, the unit that limits apply to."""
    return f"{url.host}:{url.port}"


def host_of(text: str) -> str:
    """The `host:port` that a catalogue's text names; empty if the text is not a URL."""
    try:
        return host_name(parse_url(text))
    except PictureError:
        return ""


def _escape(match: re.Match[str]) -> str:
    # Headers keep bytes that are not UTF-8 as surrogates; each becomes the byte that it stands for.
    return quote(match[0], safe="", errors="surrogateescape")
