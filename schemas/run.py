"""Parameters of a whole run, one model a catalogue, flat enough for a command line; and the record a run leaves."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.demo import DemoConfig
from schemas.encoders import PRESETS, CaptionSpec, EncoderSpec, VectorsConfig
from schemas.images import ImagesConfig
from schemas.ingest import IngestConfig
from schemas.lineage import FOLDER
from schemas.registry import RegistryConfig
from schemas.report import ReportConfig
from schemas.similarity import SimilarityConfig
from schemas.sources import AmazonSource, CatalogueSource, MicroLensSource, MMRecSource, MovieLensSource
from schemas.training import CM3Config

FeatureName = Annotated[str, StringConstraints(pattern=f"^{FOLDER}$")]


class RunParameters(BaseModel):
    """What every catalogue's run takes. The nested models deepen one stage each; their defaults are good ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Literal["default", "offline"] = Field("default", description="Models from the hub, or from packages.")
    features: tuple[str, ...] = Field(
        ("sentence", "clip", "caption"), description="Features to extract, by name: see `encoders`."
    )
    imported: dict[FeatureName, VectorsConfig] = Field(
        {}, description="Features that others made, by the name each shall have: files of vectors, used beside ours."
    )
    store: str = Field("store", min_length=1, description="Where tables are published: a folder or s3://bucket/prefix.")
    cluster: str = Field(
        "",
        description="Address of a Dask scheduler, such as tcp://scheduler:8786, whose workers download, encode and "
        "compare; empty: this machine.",
    )
    encoders: dict[FeatureName, EncoderSpec] = Field(
        {}, description="More features, or other models for known ones, by name."
    )
    captioner: CaptionSpec | None = Field(None, description="Another captioner than the preset's.")
    ingest: IngestConfig = Field(IngestConfig(), description="What is kept and how it is split.")
    images: ImagesConfig = Field(ImagesConfig(), description="How pictures are fetched and stored.")
    similarity: SimilarityConfig = Field(SimilarityConfig(), description="How the similarity graph is built.")
    trainer: CM3Config = Field(CM3Config(), description="CM3's hyper-parameters.")
    registry: RegistryConfig = Field(RegistryConfig(), description="When a version becomes champion.")
    report: ReportConfig = Field(ReportConfig(), description="How much the report shows.")

    @model_validator(mode="after")
    def _features_can_be_made(self) -> "RunParameters":
        known = PRESETS[self.models].encoders | self.encoders
        unknown = [name for name in self.features if name not in known]
        if unknown:
            raise ValueError(f"features: no encoder for {', '.join(unknown)}; allowed: {', '.join(known)}")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: a name is given twice")
        if both := sorted(set(self.features) & set(self.imported)):
            raise ValueError(f"imported: {', '.join(both)} is extracted too; give the imported one another name")
        if not self.features and not self.imported:
            raise ValueError("features: name one at least, or vectors to import")
        return self

    @model_validator(mode="after")
    def _versions_can_be_compared(self) -> "RunParameters":
        if 20 not in self.trainer.evaluation.cutoffs:
            raise ValueError("trainer.evaluation.cutoffs must hold 20: the registry compares versions by NDCG@20")
        return self

    def encoder(self, feature: str) -> EncoderSpec:
        """The encoder behind a feature's name."""
        return (PRESETS[self.models].encoders | self.encoders)[feature]

    def caption_spec(self) -> CaptionSpec:
        """The captioner behind the `caption` feature."""
        return self.captioner or PRESETS[self.models].captioner


class AmazonParameters(RunParameters, AmazonSource):
    """Amazon Reviews of one category and release."""


class CatalogueParameters(RunParameters, CatalogueSource):
    """Your own catalogue."""


class MovieLensParameters(RunParameters, MovieLensSource):
    """MovieLens with posters and plots."""


class MicroLensParameters(RunParameters, MicroLensSource):
    """MicroLens."""


class MMRecParameters(RunParameters, MMRecSource):
    """A folder in the MMRec format, with its published split."""


class DemoParameters(RunParameters):
    """The drawn catalogue."""

    models: Literal["default", "offline"] = Field("offline", description="Models from the hub, or from packages.")
    demo: DemoConfig = Field(DemoConfig(), description="What is drawn.")


class StageRecord(BaseModel):
    """One table of a run: which stage made it, whether it was found already published, and the stage's seconds.

    Attributes:
        counts: what the stage counted. Features and captions: contents `encoded`, `reused` (known before, or equal to
            another), `unreadable`, items `missing` the modality, and what an endpoint used. Pictures: `downloaded` by
            this run, then rows by status. Quality: rows by rule.
        rate: contents encoded, or pictures downloaded, a second of the stage; None where there were none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    table: str
    version: str
    path: str
    rows: int
    reused: bool
    seconds: float
    counts: dict[str, float] = {}
    rate: float | None = None


class RunSummary(BaseModel):
    """The record a run leaves in the store, and what the last page of the terminal shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    started: str
    seconds: float
    stages: tuple[StageRecord, ...]
    encoded: dict[str, int] = Field(description="Feature, or `captions` → contents that went through a model this run.")
    coverage: dict[str, float] = Field(description="Feature name → share of items that have it.")
    test: dict[str, float] = Field(description="CM3 on the test split, e.g. ndcg@20.")
    popularity: dict[str, float] = Field(description="The popularity baseline on the test split.")
    registered: str = Field(description="Registry version and alias, e.g. `3 (champion)`.")
    report: str = Field(description="Path of the HTML report.")
