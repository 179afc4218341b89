"""Parameters of the similarity graph."""

from enum import StrEnum

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Edges(StrEnum):
    """Which edges are published."""

    DIRECTED = "directed"
    """From every item to its nearest neighbours."""
    SYMMETRIC = "symmetric"
    """Those, and the reverse of each."""
    MUTUAL = "mutual"
    """An edge by a feature (or by the fused similarity) only if its reverse is an edge by the same one."""


class Weighting(StrEnum):
    """Where the features' weights in the fused similarity come from."""

    FIXED = "fixed"
    """From `weights`."""
    LEARNED = "learned"
    """From how well each feature finds items that the same users chose (validation split); `weights` must be empty."""


class SimilarityConfig(BaseModel):
    """How the similarity graph is built. Every field is part of the table's key.

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
        default=0.99,
        gt=0,
        le=1,
        description="Least cosine by a feature of two items reported as near-duplicates",
    )
    approximate_above: int = Field(
        default=250_000,
        ge=0,
        description="Number of items above which clusters prune the search; else it is exact",
    )
    recall_target: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="Share of true neighbours that the approximate search must find on a sample",
    )
    recall_sample: int = Field(default=500, ge=10, description="Number of items on which recall is measured")

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
"""Names the weighted mean of all features where measures are given by feature."""

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
- degree: neighbours per item that has the feature; isolated: number of items without any neighbour by it;
- hubness: skewness of the number of lists that hold an item (0: even; above 1: a few items crowd every list); largest
  hub: the largest such number; never a neighbour: share of items in no list;
- components, largest component: number of connected components among linked items, and the largest one's share of them;
- agreement (with `other`): share of the feature's neighbours that are also `other`'s, over items that have both;
- share a user, share a user by chance, lift: share of pairs of neighbours that some user chose both of (train split),
  the same with the neighbours shuffled, and the ratio. A feature worth its cost has a lift well above 1."""

DUPLICATES = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("duplicate_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
    ]
)
"""Pairs of items that seem to be one product listed twice: `kind` is "same content" (equal content_hash) or "near" (by
cosine)."""
