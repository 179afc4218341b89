"""Parameters and records of the registry of embedding versions."""

from pydantic import BaseModel, ConfigDict, Field


class RegistryConfig(BaseModel):
    """When a newly trained version takes the alias `champion`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking: str | None = Field(
        None,
        description="MLflow tracking URI; default: $MLFLOW_TRACKING_URI, else SQLite inside a local store.",
    )
    max_metric_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the champion's validation NDCG@20 that a challenger may lose and still be promoted.",
    )
    champions_compared: int = Field(
        7,
        ge=1,
        description="The allowed metric loss counts from the best of this many last champions; 1: the present one. A "
        "promotion by hand starts the count anew.",
    )
    max_coverage_loss: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the champion's items, and of its items with a feature, that a challenger may lack.",
    )


class Measured(BaseModel):
    """What a version is judged by.

    Attributes:
        validation_ndcg: NDCG@20 on the validation split.
        validation_set: number and digest of the validation split's interactions; empty where unknown.
        items: items with an embedding.
        coverage: feature name → share of items that have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_ndcg: float
    validation_set: str = ""
    items: int
    coverage: dict[str, float] = {}


class Registered(Measured):
    """One version in the registry.

    Attributes:
        number: the registry's version number, from 1.
        alias: "champion" or "challenger" at the time of registration.
        reason: one sentence that says why it got that alias.
        tables: table name → version, for every table it was made from.
        report: address of its report within the store; empty if it has none.
        reused: whether an earlier run had already registered it.
    """

    dataset: str
    number: int
    alias: str
    reason: str
    run_id: str
    tables: dict[str, str]
    report: str = ""
    reused: bool = False
