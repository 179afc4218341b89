"""What an encoder is to a stage: three Protocols and the fingerprint that identifies its vectors."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field

from schemas.lineage import canonical_json

Vectors = Float32[np.ndarray, "n dim"]
Pixels = torch.Tensor


class Fingerprint(BaseModel):
    """Everything but the content that decides a vector or a caption: equal fingerprints, equal results.

    Computed without loading the model, so that a run with nothing to do stays cheap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    model: str = Field(description="As the run named it.")
    revision: str = Field(description="Hub commit, or the first 16 digits of `weights` where there is none.")
    weights: str = Field(description="SHA-256 over names and contents of the model's files, preprocessing included.")
    options: dict[str, Any] = Field(description="What the run adds: prompt, truncation, picture size, normalisation.")
    dtype: str
    code: int = Field(description="Version of the adapter; raised when the same model would give other results.")

    def key(self) -> str:
        """SHA-256 (hex). The name alone does not count: the same files under another path are the same encoder."""
        record = self.model_dump(exclude={"model", "revision"})
        return hashlib.sha256(canonical_json(record).encode()).hexdigest()


@runtime_checkable
class TextEncoder(Protocol):
    """Words to vectors."""

    fingerprint: Fingerprint
    dim: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row a text, in the order given; float32, of length 1 where `options.normalize` says so."""
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Pictures to vectors, in two halves, so that a GPU computes while others decode."""

    fingerprint: Fingerprint
    dim: int
    batch_size: int

    def preprocess(self, image: bytes) -> Pixels:
        """Decode and resize one picture, (channels, height, width).

        Called from several threads at once; so is `encode`, on a CPU.

        Raises:
            OSError: the bytes are no readable picture.
        """
        ...

    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """One row a picture, in the order given; float32, of length 1 where `options.normalize` says so."""
        ...


class Answer(BaseModel):
    """What a captioner said of one picture, before anybody judged it.

    Attributes:
        text: the answer, or the reason there is none.
        failed: true where `text` is a reason.
        cut: true where the answer ended because it reached the limit of its length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    failed: bool = False
    cut: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


@runtime_checkable
class Captioner(Protocol):
    """Pictures to sentences."""

    fingerprint: Fingerprint
    batch_size: int

    def caption(self, images: Sequence[bytes], *, again: bool = False) -> list[Answer]:
        """One answer a picture, in the order given. `again` is the second, differently put, request."""
        ...


def finish(vectors: torch.Tensor, *, normalize: bool, truncate_dim: int | None = None) -> Vectors:
    """Float32 on the CPU; cut to `truncate_dim` first, then scaled to length 1, as Matryoshka models expect.

    A vector of zeros stays zeros.
    """
    rows = vectors.detach().float()
    if truncate_dim is not None:
        rows = rows[:, :truncate_dim]
    if normalize:
        rows = torch.nn.functional.normalize(rows, dim=-1)
    return np.ascontiguousarray(rows.cpu().numpy())
