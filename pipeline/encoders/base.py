"""What encoders and captioners are to a stage: three Protocols, and the fingerprint that identifies their results."""

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
    """Everything except the content that decides a vector or a caption: equal fingerprints, equal results.

    Computed without loading the model, so that a run with nothing to do stays cheap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    model: str = Field(description="As the run named it.")
    revision: str = Field(description="Hub commit, or the first 16 digits of `weights` if there is none.")
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
    """Texts to vectors."""

    fingerprint: Fingerprint
    dim: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row per text, in the order given; float32, of length 1 if `options.normalize` says so."""
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Pictures to vectors, in two steps, so that a GPU computes while other threads decode."""

    fingerprint: Fingerprint
    dim: int
    batch_size: int

    def preprocess(self, image: bytes) -> Pixels:
        """Decode and resize one picture, (channels, height, width).

        Called from several threads at once; so is `encode`, on a CPU.

        Raises:
            OSError: the bytes are not a readable picture.
        """
        ...

    def encode(self, pixels: Sequence[Pixels]) -> Vectors:
        """One row per picture, in the order given; float32, of length 1 if `options.normalize` says so."""
        ...


Encoder = TextEncoder | ImageEncoder


class Answer(BaseModel):
    """What a captioner said about one picture, before it is judged.

    Attributes:
        text: the answer, or the reason why there is none.
        failed: true if `text` is a reason.
        cut: true if the answer ended because it reached the limit of its length.
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
        """One answer per picture, in the order given. `again` marks a second request, which is worded differently."""
        ...


def finish(vectors: torch.Tensor, *, normalize: bool, truncate_dim: int | None = None) -> Vectors:
    """Float32 on the CPU; first cut to `truncate_dim`, then scaled to length 1, as Matryoshka models expect.

    A zero vector stays zero.
    """
    rows = vectors.detach().float()
    if truncate_dim is not None:
        rows = rows[:, :truncate_dim]
    if normalize:
        rows = torch.nn.functional.normalize(rows, dim=-1)
    return np.ascontiguousarray(rows.cpu().numpy())
