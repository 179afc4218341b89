"""A failure's reason can be stored."""

from pipeline.images.outcome import PictureError
from schemas.tables import ImageStatus


def test_a_reason_that_quotes_a_servers_bytes_can_be_kept() -> None:
    error = PictureError(ImageStatus.REDIRECT_ERROR, "a redirect to \udce9x scheme")
    assert error.reason == "a redirect to ?x scheme"
