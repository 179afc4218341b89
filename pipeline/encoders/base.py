"""What encoders and captioners are to a stage: Protocols, and the fingerprint that identifies their results."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field

from schemas.lineage import canonical_json

if TYPE_CHECKING:  # a plan asks for fingerprints alone
    import torch
    from PIL import Image

Vectors = Float32[np.ndarray, "n dim"]
Pixels: TypeAlias = "torch.Tensor"


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
    license: str = Field(default="", description="The model's; empty if it says none.")

    def key(self) -> str:
        """SHA-256 (hex). The name alone does not count: the same files under another path are the same encoder."""
        return hashlib.sha256(canonical_json(self.config()).encode()).hexdigest()

    def config(self) -> dict[str, Any]:
        """What decides the results: all but names, and the licence."""
        return self.model_dump(exclude={"model", "revision", "license"})


class RefusedTextsError(ValueError):
    """A model does not take some texts, such as one that contains its mark for a picture.

    Attributes:
        reasons: text → why; some of those refused, at least one.
    """

    @property
    def reasons(self) -> dict[str, str]:
        reasons: dict[str, str] = self.args[0]
        return reasons


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to vectors."""

    fingerprint: Fingerprint
    dim: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row per text, in the order given; float32, of length 1 if `options.normalize` says so.

        Raises:
            RefusedTextsError: the model does not take some of them; without these it takes the rest.
        """
        ...

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the model reads."""
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


@dataclass(frozen=True)
class Item:
    """What an `ItemEncoder` reads of one item: at least one part.

    Attributes:
        text: None if the item has no words.
        pictures: decoded, RGB, the main one first.
    """

    text: str | None
    pictures: tuple["Image.Image", ...]


Inputs = list[tuple[list[int], dict[str, Any]]]
"""The input of a model for a batch of items: for each forward pass how many rows each item has in it, and the model's
features, tensors and values that belong to all rows."""


@runtime_checkable
class ItemEncoder(Protocol):
    """Items, each a text and pictures, to one vector each; in two steps, as for pictures."""

    fingerprint: Fingerprint
    dim: int
    batch_size: int

    def preprocess(self, items: Sequence[Item]) -> list[Inputs]:
        """Resize and tokenize, in batches of at most `batch_size` items.

        Called from several threads at once; so is `encode`, on a CPU.

        Raises:
            ValueError: the model does not take one of the items.
        """
        ...

    def cut(self, items: Sequence[Item], batches: Sequence[Inputs]) -> list[bool]:
        """Which items have a longer text than the model reads.

        Args:
            batches: what `preprocess` made of the items.
        """
        ...

    def encode(self, batches: Sequence[Inputs]) -> Vectors:
        """One row per item, in the order given; float32, of length 1 if `options.normalize` says so."""
        ...


@dataclass(frozen=True)
class Embedded:
    """What a server gave for some contents.

    Attributes:
        places: positions of the contents that have a vector, ascending.
        vectors: (len(places), dim), float32.
        reasons: position of a content without a vector → why.
        tokens: as the server counted them.
    """

    places: list[int]
    vectors: Vectors
    reasons: dict[int, str]
    tokens: int


@runtime_checkable
class ServedEncoder(Protocol):
    """Texts or pictures to vectors, by a server."""

    fingerprint: Fingerprint
    dim: int

    def embed(self, contents: Sequence[str | bytes]) -> Embedded:
        """A vector or a reason for every content."""
        ...


Encoder = TextEncoder | ImageEncoder | ItemEncoder | ServedEncoder


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


def means(rows: Vectors, counts: Sequence[int] | np.ndarray, *, normalize: bool) -> Vectors:
    """The mean of the next `counts[i]` rows, for each i: zeros for none, the row itself for one.

    Args:
        normalize: scale means of several rows to length 1 again.
    """
    counts = np.asarray(counts)
    some, several = counts > 0, counts > 1
    result = np.zeros((len(counts), rows.shape[1]))
    result[some] = np.add.reduceat(rows, (np.cumsum(counts) - counts)[some], axis=0, dtype=np.float64)
    result[some] /= counts[some, None]
    if normalize:
        lengths = np.linalg.norm(result[several], axis=1, keepdims=True)
        result[several] /= np.where(lengths > 0, lengths, 1)
    return result.astype(np.float32)


def finish(vectors: "torch.Tensor", *, normalize: bool, truncate_dim: int | None = None) -> Vectors:
    """Float32 on the CPU; first cut to `truncate_dim`, then scaled to length 1, as Matryoshka models expect.

    A zero vector stays zero.
    """
    rows = vectors.detach().float()
    if truncate_dim is not None:
        rows = rows[:, :truncate_dim]
    if normalize:
        from torch.nn import functional

        rows = functional.normalize(rows, dim=-1)
    return np.ascontiguousarray(rows.cpu().numpy())
