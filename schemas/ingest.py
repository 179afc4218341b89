"""Parameters of the ingest stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IngestConfig(BaseModel):
    """What is kept of a catalogue, which interactions train, and how they are split.

    Rules in this order, each counted in the `quality` table. Of items: rows that are not records or lack an id are
    dropped; of two items with one id the first is kept; items without what `require` names are dropped. Every other
    item is published, chosen or not. Of interactions: those with unknown items are dropped; of two of one user with one
    item the latest is kept (of equal times the later row); ratings below `min_rating` are dropped; the k-core is kept.
    Items are counted as `warm_item` (with a published interaction), `rare_item` (chosen, but no interaction passed the
    rules) or `unsold_item` (never chosen).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_k: int = Field(
        5,
        ge=1,
        description="Interactions that every user and every item must have to train (k-core); every item is published.",
    )
    min_rating: float | None = Field(
        None, description="Smallest rating that counts as a choice, in the source's scale; null: every rating counts."
    )
    require: tuple[Literal["title", "image"], ...] = Field(
        (),
        description="What an item must have to be kept: a title; a picture's address (and the file, if it is local).",
    )
    split: Literal["auto", "per_user", "leave_one_out", "global_time", "published"] = Field(
        "auto",
        description="auto: the source's published split if it has one (then without k-core), else per_user. "
        "per_user: of a user's 10 or more interactions 80/10/10 at random; of 3 to 9 the last in time is test, the one "
        "before valid; one or two only train. leave_one_out: of 3 or more, the last is test, the one before valid. "
        "global_time: the last in time over all users are test, those before valid.",
    )
    valid_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for validation.")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for testing.")
    seed: int = Field(999, ge=0, lt=2**32, description="Seed of the split's random choices, also between equal times.")
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="Share of a file's lines that may be unreadable; with more the run is refused."
    )
