"""Parameters and outcome of exporting vectors for readers that want no Parquet."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExportConfig(BaseModel):
    """What is written beside `ids.npy` and `vectors.npy`, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: bool = Field(True, description="Scale every vector to length 1, so that inner products are cosines.")
    index: Literal["none", "flat", "hnsw", "lance"] = Field(
        "flat",
        description="FAISS index of inner products: flat is exact, hnsw approximate and fast; lance: a Lance data set "
        "of `id` and `vector` instead, which LanceDB opens (needs the extra lance); none: no index.",
    )
    hnsw_links: int = Field(32, ge=4, le=256, description="hnsw: links of a vector in the graph")


class Exported(BaseModel):
    """What was written.

    Attributes:
        vectors: .npy, (rows, dim), float32; `ids`: .npy, (rows,), strings, the same order; `index`: FAISS, or Lance,
            the same order, empty where none was asked for.
        rows: vectors; missing: rows of the table without one, which are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: str
    ids: str
    index: str
    rows: int
    dim: int
    missing: int
