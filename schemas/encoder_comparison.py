"""What a comparison of encoders on a data set's own interactions takes and finds."""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.encoders import EncoderSpec
from schemas.training import ComparisonConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderComparisonConfig(_Frozen):
    """Which encoders are compared, and the trainer that judges all of them."""

    encoders: dict[str, EncoderSpec | None] = Field(
        min_length=2, description="name → encoder; null: the feature of that name in the last run, as it was published"
    )
    trainer: ComparisonConfig = Field(description="seeds, and CM3's configuration; the rest is not used")


class Judged(_Frozen):
    """How well an encoder's vectors alone serve the trainer.

    Attributes:
        warm, warm_spread: selection metric on test, mean and standard deviation over the seeds; null for one seed.
        cold, cold_spread: recall of hidden items at the same cut-off, by the item weights, over draws of what is
            hidden, one per seed (ten at most); null where nobody could be judged, the spread also of a single draw.
    """

    warm: float
    warm_spread: float | None
    cold: float | None
    cold_spread: float | None


class EncoderPair(_Frozen):
    """Two encoders, compared over users by one measure."""

    encoder: str
    other: str
    measure: Literal["warm", "cold"]
    ahead: float | None = Field(description="the encoder's mean over the other's, less 1; null where that is 0")
    p_value: float | None = Field(description="two-sided paired t-test over users, each the mean over seeds or draws")
    p_holm: float | None = Field(description="the same, by Holm's correction over all pairs and measures")


class EncoderRow(Judged):
    """One encoder: what it costs, and what it gives."""

    encoder: str
    model: str = Field(description="name of the model, with its revision")
    coverage: float = Field(description="share of items that have a vector")
    seconds: float | None = Field(
        description="seconds to encode one content, measured here without loading the model; of an endpoint, the mean "
        "over all that this store had from it; 0 for imported vectors; null where this machine has not the model, or "
        "the endpoint's vectors came by a batch"
    )
    price: float | None = Field(
        description="price of one content at an endpoint, by `price_in`; 0 without one; null where its vectors came "
        "by a batch"
    )
    bytes: float = Field(description="bytes of the published feature per item")
    share_a_user: float | None = Field(description="share of neighbours that some user chose both of, in training")
    by_chance: float | None = Field(description="the same with the neighbours shuffled")


class EncoderComparison(_Frozen):
    """The rows in the order given, every pair of them, one sentence that says which pays, and the published table."""

    rows: tuple[EncoderRow, ...]
    pairs: tuple[EncoderPair, ...]
    verdict: str
    path: str


ENCODER_COMPARISON = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("coverage", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("price", pa.float64()),
        pa.field("bytes", pa.float64(), nullable=False),
        pa.field("share_a_user", pa.float64()),
        pa.field("by_chance", pa.float64()),
        pa.field("warm", pa.float64(), nullable=False),
        pa.field("warm_spread", pa.float64()),
        pa.field("cold", pa.float64()),
        pa.field("cold_spread", pa.float64()),
        pa.field(
            "pairs",
            pa.list_(
                pa.struct(
                    [
                        ("other", pa.string()),
                        ("measure", pa.string()),
                        ("ahead", pa.float64()),
                        ("p_value", pa.float64()),
                        ("p_holm", pa.float64()),
                    ]
                )
            ),
            nullable=False,
        ),
    ]
)
"""Schema of `encoder_comparison`: one row per encoder, with the fields of `EncoderRow`; `pairs` are those with the
encoders of the rows below it."""
