"""Semantic ids: their parameters, and the schemas of the two tables that hold them."""

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.tables import vector


class SemanticIdsConfig(BaseModel):
    """Which features give semantic ids, and how fine they are. Off unless features are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = Field((), description="Features that give semantic ids, by name; empty: none do.")
    levels: int = Field(3, ge=1, le=16, description="Codes per item, from coarse to fine, before the number that "
                        "tells apart items with equal codes.")  # fmt: skip
    bits: int = Field(8, ge=1, le=12, description="Bits per code: a codebook of 2^bits vectors at each level.")
    generation: int = Field(
        1,
        ge=1,
        description="Raise it to train the codebooks anew: every id changes. Until then new items are coded with the "
        "published ones, and an item with the same vector keeps its id.",
    )


SEMANTIC_IDS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.int32())),
    ]
)
"""Schema of `semantic_ids/<feature>`: one row per item of the feature, in its order. `codes` are `levels` codes from
coarse to fine, each in [0, 2^bits), and last a number that tells apart items with equal codes: 0, unless an item that
was coded earlier has it. No two items have the same codes; null if the item has no vector."""


def semantic_codebooks(dim: int) -> pa.Schema:
    """Schema of `semantic_codebooks/<feature>`; `dim` is the width of the feature's vectors.

    The sum of a vector at each `level` (from 0), that of the item's code there, is near the item's own vector.
    """
    return pa.schema(
        [
            pa.field("level", pa.int32(), nullable=False),
            pa.field("code", pa.int32(), nullable=False),
            pa.field("centroid", vector(dim), nullable=False),
        ]
    )
