"""Parameters of the similarity graph."""

from enum import StrEnum

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Edges(StrEnum):
    """Which of the found edges are published."""

    DIRECTED = "directed"
    """Every item's own nearest neighbours."""
    SYMMETRIC = "symmetric"
    """And the reverse of each edge."""
    MUTUAL = "mutual"
    """An edge found by one feature (or by the fused similarity) only where that one also found its reverse."""


class Weighting(StrEnum):
    """Where the features' weights in the fused similarity come from."""

    FIXED = "fixed"
    """From `weights`."""
    LEARNED = "learned"
    """From how well each feature finds items that the same users chose (validation split); `weights` must be empty."""


class SimilarityConfig(BaseModel):
    """How the similarity graph is built. All of it enters the table's key.

    The fused similarity of two items is the weighted mean of their cosines over the features that both items have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(default=10, ge=1, le=1000, description="Neighbours of each item by each feature, and fused")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="Weight of each feature in the fused similarity, at least 0, any scale; empty: all equal",
    )
    weighting: Weighting = Field(default=Weighting.FIXED, description="fixed | learned (from co-consumption)")
    include_self: bool = Field(default=False, description="Count the item itself as one of its k neighbours")
    edges: Edges = Field(default=Edges.DIRECTED, description="directed | symmetric | mutual")
    near_duplicate: float = Field(
        default=0.99, gt=0, le=1, description="Cosine from which two items are reported as near-duplicates by a feature"
    )
    approximate_above: int = Field(
        default=250_000, ge=0, description="Items from which clusters prune the search; up to here it is exact"
    )
    recall_target: float = Field(
        default=0.97, gt=0, le=1, description="Share of true neighbours the approximate search must find on a sample"
    )
    recall_sample: int = Field(default=500, ge=10, description="Items in the sample that recall is measured on")

    @model_validator(mode="after")
    def _consistent(self) -> "SimilarityConfig":
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")
        if self.weights and sum(self.weights.values()) <= 0:
            raise ValueError("at least one weight must be above 0")
        if self.weights and self.weighting is Weighting.LEARNED:
            raise ValueError("weighting 'learned' finds the weights itself: leave weights empty")
        if self.include_self and self.k < 2:
            raise ValueError("include_self counts among the k neighbours, so k must be at least 2")
        return self


FUSED = "fused"
"""Stands for the weighted mean of all features where a measure is given by feature."""

GRAPH_QUALITY = pa.schema(
    [
        pa.field("measure", pa.string(), nullable=False),
        pa.field("feature", pa.string(), nullable=False),
        pa.field("other", pa.string()),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Measures of a similarity graph, by feature (or "fused"):

- items, coverage: number and share of items that have the feature;
- degree: neighbours an item that has it; isolated: items without any neighbour by it, for want of it or of others;
- hubness: skewness of how often an item is a neighbour (0 even; above 1 a few items crowd every list); largest hub: the
  most lists that hold one item; never a neighbour: share of items in no list;
- components, largest component: connected parts among linked items, and the largest one's share of them;
- agreement (with `other`): share of the feature's neighbours that are `other`'s too, over items that have both;
- share a user, share a user by chance, lift: share of neighbours that some user chose both of (train split), the same
  for the lists with their neighbours shuffled, and the ratio. A feature worth its cost has lift well above 1."""

DUPLICATES = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("duplicate_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
    ]
)
"""Items that look like one item twice: `kind` is "same content" (equal content_hash) or "near" (by cosine)."""
