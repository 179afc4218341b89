"""Parameters of a whole run, one model per source, flat enough for a command line; and the record a run leaves."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator

from schemas.contracts import ContractsConfig, Rule, Verdict
from schemas.encoders import PRESETS, CaptionSpec, EncoderSpec, VectorsConfig
from schemas.images import ImagesConfig
from schemas.ingest import IngestConfig
from schemas.lineage import FOLDER
from schemas.registry import RegistryConfig
from schemas.report import ReportConfig
from schemas.semantic_ids import SemanticIdsConfig
from schemas.similarity import SimilarityConfig
from schemas.sources import SOURCES, SourceConfig
from schemas.training import CM3Config

FeatureName = Annotated[str, StringConstraints(pattern=f"^{FOLDER}$", max_length=100)]


class FeatureParameters(BaseModel):
    """What the way from a catalogue to its features and graph takes. Each nested model configures one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_type: ClassVar[type[SourceConfig]]
    models: Literal["default", "multilingual", "ecommerce", "unified", "offline"] = Field(
        "default",
        description="`default`, `multilingual` (texts in any language), `ecommerce` (pictures of products), "
        "`unified` (its feature `unified` reads texts and pictures): models from the hub; `offline`: from packages.",
    )
    features: tuple[str, ...] = Field(
        ("sentence", "clip", "caption"), description="Features to extract, by name: see `encoders`."
    )
    imported: dict[FeatureName, VectorsConfig] = Field(
        {},
        description="Features to import from files of vectors, by name; used beside those extracted here.",
    )
    store: str = Field("store", min_length=1, description="Where tables are published: a folder or s3://bucket/prefix.")
    cluster: str = Field(
        "",
        description="Address of a Dask scheduler, such as tcp://scheduler:8786, whose workers download, encode, "
        "compare and solve item weights; empty: this machine.",
    )
    encoders: dict[FeatureName, EncoderSpec] = Field(
        {}, description="More features, or other models for the named ones, by name."
    )
    captioner: CaptionSpec | None = Field(None, description="Another captioner than the preset's.")
    ingest: IngestConfig = Field(IngestConfig(), description="What is kept and how it is split.")
    images: ImagesConfig = Field(ImagesConfig(), description="How pictures are fetched and stored.")
    similarity: SimilarityConfig = Field(SimilarityConfig(), description="How the similarity graph is built.")
    semantic_ids: SemanticIdsConfig = Field(
        SemanticIdsConfig(),
        description="Features whose vectors give items discrete codes, as generative recommenders take them.",
    )
    report: ReportConfig = Field(ReportConfig(), description="How much the report shows.")
    contracts: ContractsConfig = Field(
        ContractsConfig(), description="What the tables must keep before they become the latest."
    )
    accept: tuple[Rule, ...] = Field((), description="Contracts that may be broken this once, by name.")
    limit: int | None = Field(
        None,
        ge=1,
        description="Take a sample of this many items only, the same in every run, as a data set of its own.",
    )

    @model_validator(mode="after")
    def _features_can_be_made(self) -> "FeatureParameters":
        encoders = PRESETS[self.models].encoders | self.encoders
        if unknown := [name for name in self.features if name not in encoders]:
            raise ValueError(f"features: no encoder for {', '.join(unknown)}; allowed: {', '.join(encoders)}")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: a name is given twice")
        if both := sorted(set(self.features) & set(self.imported)):
            raise ValueError(f"imported: {', '.join(both)} is extracted too; give the imported one another name")
        if not self.features and not self.imported:
            raise ValueError("features: name one at least, or vectors to import")
        made = (*self.features, *self.imported)
        if unknown := [name for name in self.semantic_ids.features if name not in made]:
            raise ValueError(f"semantic_ids.features: {', '.join(unknown)} is not among {', '.join(made)}")
        self.contracts.check_features(made)
        return self

    @property
    def source(self) -> SourceConfig:
        """The source's own part."""
        return self.source_type(**{name: getattr(self, name) for name in self.source_type.model_fields})

    @property
    def dataset(self) -> str:
        """Name in the store: the source's own, or that of a sample of it."""
        return self.source.dataset if self.limit is None else f"{self.source.dataset}-sample-{self.limit}"

    def encoder(self, feature: str) -> EncoderSpec:
        """The encoder behind a feature's name."""
        return (PRESETS[self.models].encoders | self.encoders)[feature]

    def caption_spec(self) -> CaptionSpec:
        """The captioner behind the `caption` feature."""
        return self.captioner or PRESETS[self.models].captioner


class RunParameters(FeatureParameters):
    """What a run takes beside the parameters of its source."""

    trainer: CM3Config = Field(CM3Config(), description="CM3's hyper-parameters.")
    registry: RegistryConfig = Field(RegistryConfig(), description="When a version becomes champion.")

    @model_validator(mode="after")
    def _versions_can_be_compared(self) -> "RunParameters":
        if 20 not in self.trainer.evaluation.cutoffs:
            raise ValueError("trainer.evaluation.cutoffs must hold 20: the registry compares versions by NDCG@20")
        return self


P = TypeVar("P", bound=FeatureParameters)


def with_source(base: type[P], source: type[SourceConfig], name: str) -> type[P]:
    """A model of the fields of both, the source's first: `base` for runs on one kind of source."""
    defaults: dict[str, Any] = {
        field: (base.model_fields[field].annotation, Field(value, description=base.model_fields[field].description))
        for field, value in source.run_defaults.items()
    }
    model = create_model(
        name,
        __base__=(base, source),
        __module__=base.__module__,
        __doc__=f"{source.title}.",
        source_type=(ClassVar[type[SourceConfig]], source),
        **defaults,
    )
    return cast(type[P], model)


PARAMETERS = {
    kind: with_source(RunParameters, source, f"{source.__name__.removesuffix('Source')}Parameters")
    for kind, source in SOURCES.items()
}
"""Kind of source → the parameters of its runs, e.g. `amazon` → `AmazonParameters`."""
globals().update({model.__name__: model for model in PARAMETERS.values()})  # a pickle finds a model by its name here


class StageRecord(BaseModel):
    """One table of a run.

    Attributes:
        stage: the stage that made it.
        reused: whether it was published already, before this run.
        seconds: of the whole stage.
        counts: what the stage counted; of a stage with several tables they stand with the first, and the others have
            none. Ingest: rows by quality rule. Images: pictures `downloaded` by this run, then rows by status. Captions
            and features: contents `encoded`, `reused` (encoded before, or equal to another), `unreadable`, items
            `missing` the modality, and what an endpoint used. Training: `epochs`.
        rate: contents encoded, or pictures downloaded, per second of the stage; None where there were none.
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


class Figures(BaseModel):
    """What is followed from run to run; null, or nothing, where a run has no such figure."""

    model_config = ConfigDict(frozen=True)

    coverage: dict[str, float] = Field({}, description="Feature name → share of items that have it.")
    test: dict[str, float] = Field({}, description="CM3 on the test split, e.g. ndcg@20.")
    cold_recall: float | None = Field(
        None, description="Recall@20 of the item weights for items hidden from training, ranked among all items."
    )
    neighbor_overlap: float | None = Field(
        None, description="Edges of the similarity graph that this run and the one before share, of those either has."
    )


class RunRecord(Figures):
    """What the run of any flow leaves in the store, under `<data set>/_runs/<started>.json`."""

    dataset: str
    started: str
    seconds: float
    stages: tuple[StageRecord, ...]
    verdicts: tuple[Verdict, ...] = Field((), description="What the contracts said of the tables.")
    encoded: dict[str, int] = Field({}, description="Feature, or `captions` → contents that a model encoded.")
    registered: str = Field("", description="Registry version and alias, e.g. `3 (champion)`; empty if there is none.")
    champion_kept: str = Field("", description="Why the version registered in this run is not champion; else empty.")


class RunSummary(RunRecord):
    """The record of a training, and what the last page of the terminal shows."""

    model_config = ConfigDict(extra="forbid")

    popularity: dict[str, float] = Field(description="The popularity baseline on the test split.")
    report: str = Field(description="Path of the HTML report.")
