"""What the service is asked and answers, and what its processes tell each other."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_K = 1000
"""Items in one answer, at most."""
MAX_IDS = 10_000
"""Item ids in one list of a request, at most."""

ItemIds = Annotated[tuple[str, ...], Field(max_length=MAX_IDS)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choices(_Frozen):
    """What an unknown user chose."""

    items: Annotated[ItemIds, Field(min_length=1, description="Ids of the items that the user chose.")]
    k: int = Field(10, ge=1, le=MAX_K, description="Items in the answer, at most.")
    exclude: ItemIds = Field((), description="Ids of items that must not be in the answer.")


class Named(_Frozen):
    """An item with its title."""

    item_id: str
    title: str | None


class RecommendedItem(Named):
    """One place of a list: `because` names up to three chosen items that weigh most in the score."""

    rank: int
    score: float
    because: list[Named]


class _Answer(_Frozen):
    dataset: str
    version: str = Field(description="The champion's number in the registry; `latest` where no version is champion.")
    embeddings: str = Field(description="Version of `embeddings/items` that it was made from.")


class Recommended(_Answer):
    """What to show a known user."""

    user: str
    items: list[RecommendedItem]


class RecommendedForChoices(_Answer):
    """What to show who chose these items."""

    chosen: list[str]
    unknown: list[str] = Field(description="Those of `items` that are not in the catalogue.")
    items: list[RecommendedItem]


class Neighbor(Named):
    """One neighbour: the fused similarity, and the cosine by each feature, null where an item lacks it."""

    rank: int
    similarity: float
    by_feature: dict[str, float | None]


class Similar(_Answer):
    """The neighbours of an item."""

    item: str
    items: list[Neighbor]


class Refusal(_Frozen):
    """Why there is no answer."""

    error: str


class Prepared(_Frozen):
    """What a prepared version is.

    Attributes:
        top_k: recommendations that the table holds for each user, at most.
        neighbors: neighbours that the graph holds of each item, at most.
        features: names of the features by which neighbours are compared.
    """

    dataset: str
    version: str
    embeddings: str
    top_k: int
    neighbors: int
    features: list[str]


class Entry(_Frozen):
    """What is served of one data set.

    Attributes:
        folder: name of the prepared version's folder; empty if none is served.
        never_shown: name of the file in it that holds the rows of items that are never shown.
        problem: why it is not the champion of this moment; empty if it is.
    """

    version: str = ""
    folder: str = ""
    never_shown: str = ""
    problem: str = ""


class State(_Frozen):
    """What the follower last saw.

    Attributes:
        looked: when, seconds since 1970; 0 before the first time.
        problem: why the store could not be looked at; empty if it could.
    """

    looked: float = 0.0
    problem: str = ""
    datasets: dict[str, Entry] = {}
