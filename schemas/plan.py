"""What a run would do, before it does it."""

from pydantic import BaseModel, ConfigDict, Field


class Step(BaseModel):
    """The work of one stage. A range is open where pictures must be fetched before their contents can be compared.

    Attributes:
        at_least, at_most: how many; equal where it is certain.
        bytes: of what is fetched, by the mean size of pictures that are kept; null where none are.
        seconds, cost: of `at_most`, by `basis`; null where nothing is known. Cost in the currency of the prices given.
        basis: where the rate comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    work: str = Field(description="`read`, `fetch`, `caption`, `encode`, `compare`, `code` or `train`")
    unit: str
    at_least: int
    at_most: int
    bytes: int | None = None
    seconds: float | None = None
    cost: float | None = None
    basis: str = ""
    note: str = ""


class Plan(BaseModel):
    """Every step of a run, in the order in which it would take them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    items: int
    interactions: int
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """Sum over the steps whose time is known."""
        return sum(step.seconds or 0.0 for step in self.steps)

    @property
    def cost(self) -> float:
        """Sum over the steps whose cost is known."""
        return sum(step.cost or 0.0 for step in self.steps)
