"""Parameters of the images stage: limits of pictures, of hosts and of time, and what a later run asks for again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.lineage import CODE_VERSION
from schemas.tables import ImageStatus

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ImagesConfig(BaseModel):
    """How pictures are downloaded, decoded and stored. Only `max_side` and `jpeg_quality` change the stored bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: str = Field(
        "main",
        pattern=r"^(main|mean|max-([2-9]|[1-9][0-9]+))$",
        description="Which pictures of an item are downloaded and enter its vectors. `main`: the main one; `mean`: its "
        "whole gallery too, and the vector is the mean of theirs; `max-n`, e.g. `max-3`: the same for the first n.",
    )
    placeholder_share: float | None = Field(
        0.02,
        gt=0,
        lt=1,
        description="a picture that more than this share of all items have, and at least `placeholder_items`, is left "
        "out of the features as a `placeholder`; null: every picture is kept",
    )
    placeholder_items: int = Field(
        10, ge=2, description="least number of items with a picture that is shared by many and may be a placeholder"
    )
    max_side: int = Field(384, ge=16, le=8192, description="longer side of the stored JPEG, pixels; never upscaled")
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of the stored JPEG, libjpeg's scale")
    max_bytes: int = Field(20 << 20, gt=0, description="largest file downloaded, bytes")
    max_pixels: int = Field(50_000_000, gt=0, description="largest picture decoded, width × height in pixels")
    max_decode_seconds: Seconds = Field(
        3.0, description="CPU time that decoding one picture may take, seconds; 50 million pixels take up to 2"
    )

    concurrency: int = Field(64, ge=1, le=4096, description="requests in flight over all hosts")
    per_host: int = Field(16, ge=1, description="requests in flight to one host")
    per_host_rate: Seconds | None = Field(None, description="requests begun per second to one host; null: no limit")
    connect_timeout: Seconds = Field(10.0, description="seconds to connect, TLS handshake included")
    read_timeout: Seconds = Field(15.0, description="seconds between two pieces of a response")
    total_timeout: Seconds = Field(60.0, description="seconds for one attempt, redirects and body included")

    max_redirects: int = Field(5, ge=0, description="redirects followed for one picture")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="hosts that may have a private or loopback address: `name:port`, or `name` for all its ports",
    )
    file_root: str | None = Field(None, description="folder under which file:// URLs may be read; null: nowhere")
    allowed_folders: tuple[str, ...] = Field(
        (), description="further folders that may be read, e.g. where symbolic links in `file_root` lead to"
    )
    ca_file: str | None = Field(None, description="PEM file of certificate authorities trusted besides the usual ones")
    user_agent: str = Field(f"cm3-features/{CODE_VERSION}", min_length=1, description="User-Agent header sent")

    attempts: int = Field(3, ge=1, description="attempts at one picture in one run, the first included")
    backoff: float = Field(0.5, ge=0, description="seconds; attempt n waits a random time up to backoff × 2ⁿ")
    max_backoff: Seconds = Field(30.0, description="seconds; the longest such wait")
    max_retry_after: float = Field(
        120.0, ge=0, description="seconds; a server that asks for a longer Retry-After is left for a later run"
    )
    give_up_host_after: int = Field(
        20, ge=1, description="consecutive pictures lost to an unresponsive host before the run stops asking it"
    )
    retry_statuses: tuple[ImageStatus, ...] = Field(
        (
            ImageStatus.DNS_ERROR,
            ImageStatus.CONNECT_ERROR,
            ImageStatus.TLS_ERROR,
            ImageStatus.TIMEOUT,
            ImageStatus.RATE_LIMITED,
            ImageStatus.HTTP_ERROR,
        ),
        description="statuses of an earlier run that a later run asks for again",
    )
    revalidate: bool = Field(False, description="ask whether kept pictures have changed (ETag, Last-Modified)")
    max_age: float = Field(0.0, ge=0, description="seconds since the last response before a picture is revalidated")
    shard_rows: int = Field(256, ge=1, description="finished pictures kept at a time; a crash loses at most this many")

    @model_validator(mode="after")
    def _timeouts_nest(self) -> "ImagesConfig":
        if self.total_timeout < max(self.connect_timeout, self.read_timeout):
            raise ValueError("total_timeout must be at least connect_timeout and read_timeout")
        return self

    @property
    def most_pictures(self) -> int | None:
        """The most pictures of one item that are downloaded, the main one included; None: all."""
        if self.pictures == "mean":
            return None
        return 1 if self.pictures == "main" else int(self.pictures.removeprefix("max-"))
