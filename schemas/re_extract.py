"""Parameters of a re-extraction, one model a catalogue, what it found changed, and the record it leaves."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.run import (
    AmazonParameters,
    CatalogueParameters,
    DemoParameters,
    MicroLensParameters,
    MMRecParameters,
    MovieLensParameters,
    StageRecord,
)


class RetrainThreshold(BaseModel):
    """How much must have changed since the last training before another one is worth its cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: float = Field(
        0.05,
        ge=0,
        description="Items that came, changed or vanished since the last training, as a share of the items it had, "
        "from which to train again; 0: at any change.",
    )
    interactions: float = Field(
        0.05,
        ge=0,
        description="Interactions that came or vanished since the last training, as a share of those it had, from "
        "which to train again; 0: at any change.",
    )


class Changes(BaseModel):
    """What differs between two states of one catalogue. An item changed if its words or its picture did."""

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
        """Items that came, changed or vanished, by the items there were before."""
        moved = self.new + self.changed + self.vanished
        return moved / max(1, self.changed + self.vanished + self.unchanged)

    @property
    def interaction_share(self) -> float:
        """Interactions that came or vanished, by the interactions there were before."""
        moved = self.new_interactions + self.vanished_interactions
        return moved / max(1, self.vanished_interactions + self.kept_interactions)

    def __str__(self) -> str:
        return (
            f"{self.new:,} new, {self.changed:,} changed, {self.vanished:,} vanished, {self.unchanged:,} unchanged "
            f"items; {self.new_interactions:,} new, {self.vanished_interactions:,} vanished interactions"
        )


class ReExtractSummary(BaseModel):
    """The record a re-extraction leaves in the store, under `<data set>/_runs/re-extract.json`.

    Attributes:
        since_last_run: against the last run or re-extraction; null where there was none.
        since_training: against the tables of the last training; null where there was none.
        decision: one sentence: whether it trained again, and why.
        registered: registry version and alias, where it trained again; else empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    started: str
    seconds: float
    since_last_run: Changes | None
    since_training: Changes | None
    encoded: dict[str, int] = Field(description="Feature, or `captions` → contents that went through a model.")
    trained: bool
    decision: str
    registered: str = ""
    stages: tuple[StageRecord, ...]


class ReExtractParameters(BaseModel):
    """What a re-extraction takes beyond the parameters of the catalogue's run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrain: RetrainThreshold = Field(RetrainThreshold(), description="From how much change on to train again.")


class ReExtractAmazon(AmazonParameters, ReExtractParameters):
    """Amazon Reviews of one category and release."""


class ReExtractCatalogue(CatalogueParameters, ReExtractParameters):
    """Your own catalogue."""


class ReExtractMovieLens(MovieLensParameters, ReExtractParameters):
    """MovieLens with posters and plots."""


class ReExtractMicroLens(MicroLensParameters, ReExtractParameters):
    """MicroLens."""


class ReExtractMMRec(MMRecParameters, ReExtractParameters):
    """A folder in the MMRec format."""


class ReExtractDemo(DemoParameters, ReExtractParameters):
    """The drawn catalogue."""
