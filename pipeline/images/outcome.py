"""What becomes of one URL: a picture, an unchanged picture, or a failure with its reason."""

from dataclasses import dataclass

from yarl import URL

from pipeline.images.decode import Picture
from schemas.tables import ImageStatus

UNREACHABLE = frozenset({ImageStatus.DNS_ERROR, ImageStatus.CONNECT_ERROR, ImageStatus.TLS_ERROR, ImageStatus.TIMEOUT})
"""Failures of the host, rather than of the one picture."""

NO_PICTURE = frozenset({ImageStatus.EMPTY, ImageStatus.NOT_AN_IMAGE, ImageStatus.DECODE_ERROR})
"""What a host sends in place of a picture while it has a problem of its own, e.g. a maintenance page."""


class PictureError(Exception):
    """There is no picture: `status` says which kind of failure, the message why. It ends as a row of the table and
    never leaves this package.

    Attributes:
        transient: another attempt in the same run may succeed.
        retry_after: seconds that the server asked us to wait; None if it did not ask.
    """

    def __init__(
        self, status: ImageStatus, reason: str, *, transient: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        # A reason may quote a server's bytes as surrogates, which no table can store.
        self.reason = reason[:300].encode("utf-8", "replace").decode()
        self.transient = transient
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What a server sent so that it can recognise unchanged content later (RFC 9110 §8.8)."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file as served, not yet decoded; `body` is None if the server said "not modified".

    Attributes:
        delimited: False if a truncated body could not be told from a complete one.
    """

    body: bytes | None
    validators: Validators
    delimited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """A redirect: `url` is to be asked next, when the limits of its own host allow it.

    Attributes:
        number: 1 for the first redirect of an attempt.
        seconds: spent on this attempt so far, excluding the time in queues.
    """

    url: URL
    number: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The final result for one URL.

    Attributes:
        status: None means "not modified": what was kept for the URL stays valid.
        sha256: hex digest of the file as served; None if no whole file arrived.
        picture: None for failures, and if the same bytes were decoded before.
        asked: False if no request was sent because the host had been given up; a later run will ask.
    """

    url: str
    status: ImageStatus | None
    error: str | None = None
    sha256: str | None = None
    picture: Picture | None = None
    validators: Validators = Validators()
    asked: bool = True
