"""How a run's vectors and lists were made, as the lineage of its recommendations says."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from schemas.lineage import TableVersion
from schemas.training import CM3Config

_FIELDS = CM3Config.model_fields


class Delivery(NamedTuple):
    """The two settings of a training that decide what its lists may be read as.

    Attributes:
        refit: whether vectors and lists come from a second training, on all interactions.
        exclude: what the lists leave out of what the user chose: "all", "train" or "none".
    """

    refit: bool
    exclude: str

    @property
    def has_held_out(self) -> bool:
        """Whether the lists may hold items that the user chose and that training has not seen."""
        return not self.refit and self.exclude != "all"


def delivery(tables: Mapping[str, TableVersion]) -> Delivery | None:
    """The settings of the run's training; None where it has no recommendations."""
    if "recommendations" not in tables:
        return None
    config = json.loads(tables["recommendations"].lineage.get("cm3.config", "{}"))
    return Delivery(*(config.get(name, _FIELDS[name].default) for name in Delivery._fields))
