"""What becomes of one URL: a picture, an unchanged picture, or a failure with its reason."""

from dataclasses import dataclass

from yarl import URL

from schemas.tables import ImageStatus

UNREACHABLE = frozenset({ImageStatus.DNS_ERROR, ImageStatus.CONNECT_ERROR, ImageStatus.TLS_ERROR, ImageStatus.TIMEOUT})
"""Failures that say the host, rather than the picture, cannot be had."""

NO_PICTURE = frozenset({ImageStatus.EMPTY, ImageStatus.NOT_AN_IMAGE, ImageStatus.DECODE_ERROR})
"""What a host sends in the place of a picture while it is not itself: a maintenance page, say."""


class PictureError(Exception):
    """No picture: `status` says which kind, the message why. Never leaves this package; it ends as a row.

    Attributes:
        transient: another attempt in the same run may succeed.
        retry_after: seconds the server asked us to stay away, where it did.
    """

    def __init__(
        self, status: ImageStatus, reason: str, *, transient: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        # a server's bytes may be quoted in it, as surrogates, which no table can hold
        self.reason = reason[:300].encode("utf-8", "replace").decode()
        self.transient = transient
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What a server said to recognise the same content again."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Bytes as served, not yet looked at; `body` is None where the server said "not modified".

    Attributes:
        delimited: False where a body cut off could not be told from a complete one.
    """

    body: bytes | None
    validators: Validators
    delimited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A redirect: `url` is to be asked next, when the limits of its own host allow.

    Attributes:
        redirects: followed so far in this attempt, this one included.
        seconds: spent on this attempt so far, waits in queues not included.
    """

    url: URL
    redirects: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture, oriented, resized and stored as a JPEG; `width` and `height` in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one URL.

    Attributes:
        status: None means "not modified": what is known of the URL still holds.
        sha256: hex digest of the file as served, where one arrived whole.
        picture: None for failures, and where the same bytes were decoded before.
        asked: False where the run left this URL to a later one, because of what became of others on its host.
    """

    url: str
    status: ImageStatus | None
    error: str | None = None
    sha256: str | None = None
    picture: Picture | None = None
    validators: Validators = Validators()
    asked: bool = True
