"""Parameters of the ingest stage and of every kind of source."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IngestConfig(BaseModel):
    """What is kept of a catalogue and how its interactions are split.

    Rules, in this order; each is counted in the `quality` table: rows that are not records; ids missing; of two items
    with one id the first is kept; interactions with unknown items are dropped; of two interactions of one user with
    one item the latest is kept (the later row where times are equal); ratings below `min_rating` are dropped; k-core.
    Items without an interaction left are not published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_k: int = Field(5, ge=1, description="Interactions every user and every item must have, to the fixed point.")
    min_rating: float | None = Field(
        None, description="Smallest rating that counts as a choice, in the source's scale; null: every rating does."
    )
    require: tuple[Literal["title", "image"], ...] = Field(
        (),
        description="What an item must have to be kept: a title, a picture's address (where that is a file, the file).",
    )
    split: Literal["auto", "per_user", "leave_one_out", "global_time", "published"] = Field(
        "auto",
        description="auto: the source's published split where it has one (k-core is then left out), else per_user. "
        "per_user: fewer than 10 interactions: the last by time is test, the one before valid; else 80/10/10 at "
        "random. leave_one_out: last test, second last valid. global_time: the last in time of all users.",
    )
    valid_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for validation.")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for testing.")
    seed: int = Field(999, ge=0, lt=2**32, description="of the split's random choices and its ties in time")
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="Share of a file's lines that may be unreadable before the run is refused."
    )
