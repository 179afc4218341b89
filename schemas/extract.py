"""Parameters of an extraction of features alone, one model per source; and the record it leaves."""

from pydantic import ConfigDict, Field, model_validator

from schemas.run import FeatureParameters, RunRecord, with_source
from schemas.similarity import Weighting
from schemas.sources import SOURCES


class ExtractParameters(FeatureParameters):
    """What an extraction takes beside the parameters of its source. Nothing that is about interactions is used."""

    @model_validator(mode="after")
    def _nothing_is_learned(self) -> "ExtractParameters":
        if self.similarity.weighting is Weighting.LEARNED:
            raise ValueError(
                "similarity.weighting: learned needs interactions, which extract does not read; choose another "
                "weighting, or use ingest-and-train (`cm3 run`)"
            )
        return self


class ExtractSummary(RunRecord):
    """The record of an extraction; the last one is under `<data set>/_runs/extract.json` too."""

    model_config = ConfigDict(extra="forbid")

    report: str = Field(description="Path of the HTML report.")


PARAMETERS = {
    kind: with_source(ExtractParameters, source, f"Extract{source.__name__.removesuffix('Source')}")
    for kind, source in SOURCES.items()
}
"""Kind of source → the parameters of its extractions, e.g. `amazon` → `ExtractAmazon`."""
globals().update({model.__name__: model for model in PARAMETERS.values()})  # as in schemas.run
