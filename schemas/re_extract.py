"""Parameters of a re-extraction, one model per source; what changed since the last one, and the record it leaves."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.run import RunParameters, RunRecord, with_source
from schemas.sources import SOURCES


class RetrainThreshold(BaseModel):
    """How much must have changed since the last training for another one to be worth its cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: float = Field(
        0.05,
        ge=0,
        description="Train again if at least this share of the items has come, changed or vanished since the last "
        "training, relative to the items it had; 0: at any change.",
    )
    interactions: float = Field(
        0.05,
        ge=0,
        description="Train again if at least this share of the interactions has come or vanished since the last "
        "training, relative to those it had; 0: at any change.",
    )


class Changes(BaseModel):
    """What differs between two states of one catalogue. An item has changed if its text, its picture or
    its imported vector has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new: int = Field(description="items")
    changed: int = Field(description="items")
    vanished: int = Field(description="items")
    unchanged: int = Field(description="items")
    new_interactions: int = Field(description="pairs of user and item")
    vanished_interactions: int = Field(description="pairs of user and item")
    kept_interactions: int = Field(description="pairs of user and item")

    @property
    def item_share(self) -> float:
        """Items that came, changed or vanished, as a share of the items before."""
        moved = self.new + self.changed + self.vanished
        return moved / max(1, self.changed + self.vanished + self.unchanged)

    @property
    def interaction_share(self) -> float:
        """Interactions that came or vanished, as a share of the interactions before."""
        moved = self.new_interactions + self.vanished_interactions
        return moved / max(1, self.vanished_interactions + self.kept_interactions)

    def __str__(self) -> str:
        return (
            f"{self.new:,} new, {self.changed:,} changed, {self.vanished:,} vanished, {self.unchanged:,} unchanged "
            f"items; {self.new_interactions:,} new, {self.vanished_interactions:,} vanished interactions"
        )


class ReExtractSummary(RunRecord):
    """The record of a re-extraction; the last one is under `<data set>/_runs/re-extract.json` too.

    Attributes:
        since_last_run: what changed since the last run or re-extraction; null if there was none.
        since_training: what changed since the last training; null if there was none.
        decision: whether it trained again, and why; else also how much is new and got its vectors from the model.
    """

    model_config = ConfigDict(extra="forbid")

    since_last_run: Changes | None
    since_training: Changes | None
    trained: bool
    decision: str


class ReExtractParameters(RunParameters):
    """What a re-extraction takes beside the parameters of its source."""

    retrain: RetrainThreshold = Field(RetrainThreshold(), description="How much change it takes to train again.")


PARAMETERS = {
    kind: with_source(ReExtractParameters, source, f"ReExtract{source.__name__.removesuffix('Source')}")
    for kind, source in SOURCES.items()
}
"""Kind of source → the parameters of its re-extractions, e.g. `amazon` → `ReExtractAmazon`."""
globals().update({model.__name__: model for model in PARAMETERS.values()})  # as in schemas.run
