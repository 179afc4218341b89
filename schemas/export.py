"""Parameters and result of exporting vectors for readers that do not use Parquet."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExportConfig(BaseModel):
    """How vectors are written, and which index is written beside `ids.npy` and `vectors.npy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["score", "item"] = Field(
        "score",
        description="score: embeddings as published, whole; the inner product of a user's and an item's, "
        "plus `item_weights`, is the score; item: the trained part, scaled to length 1, to compare items with "
        "items. Vectors of features are scaled to length 1 either way.",
    )
    index: Literal["none", "flat", "hnsw", "lance"] = Field(
        "flat",
        description="FAISS index of inner products: flat is exact, hnsw approximate and fast; lance: a Lance data set "
        "of `id` and `vector` instead, which LanceDB opens (needs the extra lance); none: no index.",
    )
    hnsw_links: int = Field(32, ge=4, le=256, description="hnsw: links per vector in the graph")


class Exported(BaseModel):
    """What was written.

    Attributes:
        vectors: path of an .npy file, (rows, dim), float32.
        ids: path of an .npy file, (rows,), strings, in the same order.
        index: path of the FAISS index or Lance data set, in the same order; empty if none was asked for.
        rows: number of vectors.
        dim: numbers in each vector.
        missing: number of the table's rows that have no vector and are left out.
        recall: hnsw: share of a sample's 10 best that the index finds, by their inner products, so that equal vectors
            may stand for each other; null for an exact index or none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: str
    ids: str
    index: str
    rows: int
    dim: int
    missing: int
    recall: float | None = None


class HubExported(BaseModel):
    """A folder that `datasets` opens.

    Attributes:
        rows: subset → its rows, over all splits.
        pushed: address of the commit on the hub; empty if it was not pushed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    rows: dict[str, int]
    pushed: str = ""


class AtlasExported(BaseModel):
    """A file that Embedding Atlas opens.

    Attributes:
        rows: items on the map.
        command: what opens it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    rows: int
    command: str
