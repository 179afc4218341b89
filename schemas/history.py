"""A data set's runs in a row: what each made of the catalogue, how good, how long, and at what price."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Entry(BaseModel):
    """One run. A figure that a run does not have is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: str = Field(description="UTC, ISO 8601.")
    state: Literal["trained", "embedded", "extracted", "stopped"] = Field(
        description="A training; the model applied to what is new; features alone; or stopped by a contract."
    )
    note: str = Field("", description="The registered version; why it is not champion; or what the contracts said.")
    items: int | None = None
    interactions: int | None = None
    coverage: dict[str, float] = Field({}, description="Feature name → share of items that have it.")
    pictures_failed: int | None = Field(None, description="Items with an address whose picture is missing.")
    encoded: int = Field(0, description="Contents that went through a model in this run.")
    ndcg: float | None = Field(None, description="Test NDCG@20 of CM3.")
    cold_recall: float | None = Field(None, description="Recall@20 of the item weights for items hidden from training.")
    neighbor_overlap: float | None = Field(
        None, description="Edges of the similarity graph shared with the run before, of those either has."
    )
    seconds: float | None = None
    cost: float = Field(0.0, description="Of captions and vectors by an endpoint, in the currency of the prices given.")
