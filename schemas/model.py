"""The trained recommender as a published version: what its files say, and what applying it takes and gives."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.training import CM3Config, TrainingTables

MODEL = "model"
"""Its name among a data set's tables. A version is a folder of two files:"""
DESCRIPTION, TENSORS = "config.json", "model.safetensors"
"""`ModelDescription` as JSON, and the trained numbers."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BorrowedWeights(_Frozen):
    """How an item that came after training gets its `item_weights`: from the items most alike."""

    shares: dict[str, float] = Field(description="feature → its share in how alike two items are")
    themselves: float = Field(description="what having chosen one of those items adds itself, in units of the table")


class ModelDescription(_Frozen):
    """What a trained model is, beside its numbers."""

    format: Literal[1] = Field(1, description="raised when the files' content or meaning changes")
    config: CM3Config
    features: dict[str, int] = Field(description="feature → width of the vectors that it was trained on, numbers")
    filter_weight: float = Field(description="η of the score, as validation chose it")
    borrowed: BorrowedWeights | None = Field(description="null where the score has no item–item weights")


class ModelTables(_Frozen):
    """What a training published, to which new rows are added: paths or URIs of their folders."""

    model: str
    items: str = Field(description="embeddings/items")
    users: str = Field(description="embeddings/users")
    item_weights: str


class EmbeddingTables(_Frozen):
    """What applying a model reads: the tables of today, and those of its training."""

    today: TrainingTables
    trained: ModelTables
