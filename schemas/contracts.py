"""Contracts: what a run's tables must keep before they become the latest; and the verdicts on them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.tables import CAPTIONS, INTERACTIONS, ITEMS, ImageStatus

Rule = Literal[
    "items_lost",
    "items_gained",
    "nulls",
    "nulls_risen",
    "unreadable",
    "pictures_failed",
    "coverage_lost",
    "vectors_moved",
    "duplicates_risen",
    "interactions_back",
    "interactions_age",
    "interactions_ahead",
]
Level = Literal["ignore", "warn", "stop"]
State = Literal["kept", "warned", "stopped", "accepted"]
IN_DAYS = ("interactions_back", "interactions_age", "interactions_ahead")
"""Rules whose figure and limit are days; all others are shares."""
JUDGED = {"items": ITEMS, "interactions": INTERACTIONS, "captions": CAPTIONS}
"""Tables whose columns `nulls` and `nulls_risen` look at."""


def nullable(table: str) -> list[str]:
    """Columns of a judged table that may be null, except those of which null is not a lack."""
    alike = ("interactions", "never_shown")
    return [field.name for field in JUDGED[table] if field.nullable and field.name not in alike]


COLUMNS = tuple(f"{table}.{column}" for table in JUDGED for column in nullable(table))


class Contract(BaseModel):
    """One rule's limit, and what happens if a figure is above it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level = Field(description="ignore; warn: say so; stop: leave `latest` and the champion as they were.")
    limit: float = Field(ge=0, allow_inf_nan=False, description="Largest figure allowed: a share, or days.")
    of: dict[str, float] = Field({}, description="Other limits for single columns, rules, statuses or features.")


class ContractsConfig(BaseModel):
    """What is judged before `latest` moves. In each rule, `level`, `limit` and `of` keep their default if not given.

    "Before" is the last published version; where there is none, rules that compare with it say nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items_lost: Contract = Field(
        Contract(level="stop", limit=0.2), description="Share of the items before that are gone."
    )
    items_gained: Contract = Field(
        Contract(level="warn", limit=1.0), description="New items, as a share of the items before."
    )
    nulls: Contract = Field(
        Contract(level="stop", limit=1.0),
        description="Share of null in a column; set it `of` single columns, e.g. {items.title: 0.01}.",
    )
    nulls_risen: Contract = Field(
        Contract(level="warn", limit=0.2),
        description="By how much the share of null in a column is higher than before, e.g. 0.2 from 0.1 to 0.3.",
    )
    unreadable: Contract = Field(
        Contract(level="warn", limit=0.1),
        description="Rows that could not be read or used, by the rule in `quality`, as a share of the file's rows.",
    )
    pictures_failed: Contract = Field(
        Contract(level="warn", limit=0.2),
        description="Pictures that failed, by status, as a share of the items with an address.",
    )
    coverage_lost: Contract = Field(
        Contract(level="stop", limit=0.2),
        description="By how much a feature's coverage is lower than before, as a share of the coverage before.",
    )
    vectors_moved: Contract = Field(
        Contract(level="stop", limit=0.0),
        description="Share of the items with unchanged content whose vector points elsewhere (cosine below 0.999) "
        "although the encoder is the same.",
    )
    duplicates_risen: Contract = Field(
        Contract(level="stop", limit=0.2),
        description="By how much the share of items whose content another item has too is higher than before.",
    )
    interactions_back: Contract = Field(
        Contract(level="stop", limit=7.0), description="Days by which the newest interaction is older than before."
    )
    interactions_age: Contract = Field(
        Contract(level="ignore", limit=2.0), description="Days from the newest interaction to now."
    )
    interactions_ahead: Contract = Field(
        Contract(level="warn", limit=1.0), description="Days by which the newest interaction lies in the future."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, rules: Any) -> Any:
        if not isinstance(rules, dict):
            return rules
        return {name: _completed(cls, name, given) for name, given in rules.items()}

    @field_validator("nulls", "nulls_risen")
    @classmethod
    def _of_columns(cls, contract: Contract) -> Contract:
        return _allowed(contract, COLUMNS, "columns")

    @field_validator("pictures_failed")
    @classmethod
    def _of_statuses(cls, contract: Contract) -> Contract:
        return _allowed(contract, tuple(status.value for status in ImageStatus), "statuses")

    @field_validator("items_lost", "items_gained", *IN_DAYS)
    @classmethod
    def _of_nothing(cls, contract: Contract) -> Contract:
        return _allowed(contract, (), "parts")

    def check_features(self, names: tuple[str, ...]) -> None:
        """Make sure that contracts name only features that the run makes.

        Raises:
            ValueError: one names another.
        """
        for rule in ("coverage_lost", "vectors_moved", "duplicates_risen"):
            _allowed(getattr(self, rule), names, "features", f"contracts.{rule}.")


def _completed(config: type[BaseModel], name: str, given: Any) -> Any:
    field = config.model_fields.get(name)
    return field.default.model_dump() | given if field is not None and isinstance(given, dict) else given


def _allowed(contract: Contract, names: tuple[str, ...], what: str, place: str = "") -> Contract:
    if unknown := [name for name in contract.of if name not in names]:
        raise ValueError(f"{place}of: there is no {', '.join(unknown)}; {what}: {', '.join(names) or 'none'}")
    return contract


class Verdict(BaseModel):
    """What one rule says of one part of a run's tables.

    Attributes:
        stage: the stage that made the tables.
        part: the table, column, rule of `quality`, status or feature that was judged.
        figure, limit: shares, or days for the rules in `IN_DAYS`.
        state: `kept` within the limit; `warned`, `stopped` above it; `accepted` above it, but accepted for this run.
        examples: up to three ids or values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule
    stage: str
    part: str
    figure: float
    limit: float
    state: State
    examples: tuple[str, ...] = ()

    def amount(self, value: float) -> str:
        """A figure or limit as a person writes it."""
        return f"{value:,.1f} days" if self.rule in IN_DAYS else f"{value:.1%}"

    def __str__(self) -> str:
        examples = f", e.g. {', '.join(self.examples)}" if self.examples else ""
        figure, limit = self.amount(self.figure), self.amount(self.limit)
        return f"{self.rule} of {self.part} is {figure}, the limit is {limit}{examples}"


class Refusal(BaseModel):
    """The record of a run that a contract stopped, under `<data set>/_refused/<started>.json`.

    Attributes:
        tables: table name → version that was published, but did not become the latest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    started: str
    stage: str
    tables: dict[str, str]
    verdicts: tuple[Verdict, ...]
