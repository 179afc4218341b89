"""What a rule measures of a stage's tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.lineage import TableVersion

Tables = Mapping[str, TableVersion]


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        part: the table, column, rule of `quality`, status or feature that it is about.
        figure: a share, or days.
        examples: up to three ids or values.
    """

    part: str
    figure: float
    examples: tuple[str, ...] = ()
