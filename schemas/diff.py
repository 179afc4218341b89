"""The result of `cm3 diff A B`: two registered versions of one data set compared."""

from pydantic import BaseModel, ConfigDict, Field


class Pair(BaseModel):
    """One figure in both versions; null where a version lacks it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """b − a."""
        return None if self.a is None or self.b is None else self.b - self.a


class Diff(BaseModel):
    """Two versions compared. Everything about vectors is over the items that are in both.

    Attributes:
        neighbor_overlap: mean share of an item's `neighbors` nearest items (by cosine of embeddings) that are the same.
        graph_overlap: edges that both similarity graphs have, as a share of those that at least one has.
        drift: mean of 1 − cosine between an item's two embeddings, after the rotation that brings them closest
            (orthogonal Procrustes); null where no item is in both.
        most_moved: the items that drifted most, with their drift, largest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    a: int = Field(description="number in the registry")
    b: int = Field(description="number in the registry")
    items_both: int
    items_only_a: int
    items_only_b: int
    coverage: dict[str, Pair] = Field(description="Feature → share of items that have a vector.")
    metrics: dict[str, Pair] = Field(description='Metric of CM3, e.g. "test ndcg@20" → its mean over seeds.')
    neighbors: int = Field(description="number of nearest neighbours compared per item")
    neighbor_overlap: float | None
    graph_overlap: float | None
    drift: float | None
    most_moved: dict[str, float]
