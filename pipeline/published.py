"""What every stage returns: the tables that it published, and what it counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from pipeline.store import Store
from schemas.lineage import TableVersion

Counts = dict[str, float]


@dataclass(frozen=True)
class Published:
    """A stage's result.

    Attributes:
        tables: table name → published version, in the order in which a reader wants to see them.
        counts: name → what the stage counted: work done (`encoded`, `downloaded`), work saved (`reused`), and rows by
            reason. An unchanged table has its counts too.
    """

    tables: Mapping[str, TableVersion]
    counts: Mapping[str, float] = field(default_factory=dict)


def rows_by(store: Store, version: TableVersion, column: str, weight: str = "") -> Counts:
    """Number of rows, or the sum of the column `weight`, for each value of a column; the largest first."""
    frame = cast(pl.DataFrame, pl.from_arrow(store.read(version, [column, *([weight] if weight else [])])))
    sums = frame.group_by(column).agg((pl.col(weight).sum() if weight else pl.len()).alias("n"))
    return dict(sums.sort("n", column, descending=[True, False]).iter_rows())
