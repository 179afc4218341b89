"""A catalogue as two SQL queries."""

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

FROM_ENVIRONMENT: Final = "env:"
"""Beginning of what names an environment variable instead of giving its value."""
FROM_BLOCK: Final = "block:"
"""Beginning of what names a Secret block of Prefect; flows read it (`flows.blocks`)."""


class SqlQueries(BaseModel):
    """Queries whose rows are a catalogue; `item_columns` and `interaction_columns` map their columns."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(
        description="`env:CM3_…_URL`: the environment variable that holds the database's address as SQLAlchemy reads "
        "it; `block:NAME`: Prefect's Secret block that does; or an address without a password."
    )
    items: str = Field(min_length=1, description="Query of the items, one row each.")
    interactions: str = Field("", description="Query of the interactions; empty: none, for features alone.")

    @model_validator(mode="after")  # of the whole, so that no message shows the address
    def _no_secret(self) -> "SqlQueries":
        if self.url.startswith(FROM_ENVIRONMENT):
            if not re.fullmatch(r"env:CM3_[A-Z0-9_]+_URL", self.url):
                raise ValueError("url: expected the name of a variable made for this: env:CM3_…_URL")
            return self
        if self.url.startswith(FROM_BLOCK):
            if not re.fullmatch(r"block:[a-z0-9-]+", self.url):
                raise ValueError("url: expected a Secret block's name: block:shop-database")
            return self
        _, is_address, rest = self.url.partition("://")
        if not is_address:
            raise ValueError("url: expected env:CM3_…_URL, or an address such as postgresql://USER@HOST/DATABASE")
        if ":" in rest.rpartition("@")[0] or "password" in rest.lower():
            raise ValueError(
                "url: holds a password, and parameters are kept and shown: put the address into an environment "
                "variable CM3_…_URL where the flow runs, and give env:CM3_…_URL"
            )
        return self
