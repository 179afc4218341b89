"""Parameters of encoders and captioners, and the presets that name the models of each feature."""

from string import Formatter
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

TextKind = Literal["sentence", "open_clip_text", "transformers_clip_text", "embedding-endpoint"]
ImageKind = Literal["open_clip", "timm", "transformers_clip", "embedding-endpoint-image"]
ItemKind = Literal["multimodal"]
EncoderKind = Literal[TextKind, ImageKind, ItemKind]
"""Kinds of encoders, by what they read. `ADAPTERS` in pipeline/encoders/load.py says what loads each of them."""
Modality = Literal["text", "image", "multimodal"]
Dtype = Literal["auto", "float32", "bfloat16"]

SERVED = ("endpoint", "embedding-endpoint", "embedding-endpoint-image")
"""Kinds of captioners and encoders whose model is on a server."""
NOT_TOLD = ("dtype", "max_tokens", "image_size", "batch_tokens")
"""Parameters of a model that is loaded here, which no endpoint is told."""
LOCAL = ("offline:", "/", ".", "~")
"""Beginnings of model names that are no hub repository."""
KEY_VARIABLE = r"^(OPENAI_API_KEY|CM3_[A-Z0-9_]+_KEY)$"
"""Environment variables that a run may send to an endpoint: no parameter may choose another secret of the machine."""


class ModelSpec(BaseModel):
    """Where a model comes from and what it may do: shared by encoders and captioners."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        description="A hub repository (`owner/name`), a folder that holds the model's files, or `offline:<name>`."
    )
    revision: str = Field(
        default="",
        description="Hub commit (40 hex digits) of the model; required for a hub repository. For an "
        "endpoint any word of your own: with another one every content is asked for again.",
    )
    dtype: Dtype = Field(
        default="auto",
        description="Arithmetic of the matrix products; `auto` is bfloat16 where the processor or GPU multiplies it "
        "natively, float32 elsewhere. What is stored is always float32.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that came with the model; the operator's CM3_TRUST_REMOTE_CODE must name it too.",
    )
    license: str = Field(
        default="",
        description="The model's licence, where its card does not name one; recorded with every table that it makes.",
    )
    accept_license: bool = Field(
        default=False, description="Say that your use is allowed, for a model whose licence forbids commercial use."
    )

    @model_validator(mode="after")
    def _hub_models_are_pinned(self) -> "ModelSpec":
        pinned = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
        if self.is_from_hub() and not pinned:
            raise ValueError(
                f"revision of {self.model!r} must be a hub commit of 40 hex digits, found {self.revision!r}; the "
                "model's page lists its commits. For a local folder write its path with a leading / or ./"
            )
        if self.revision and self.model.startswith(LOCAL):
            raise ValueError(f"revision {self.revision!r}: {self.model!r} has none but its own weights; leave it out")
        return self

    def is_from_hub(self) -> bool:
        """Whether `model` names a hub repository, whose files change unless a commit is named."""
        return not self.model.startswith(LOCAL) and self.model.count("/") == 1


class ServedSpec(ModelSpec):
    """A model that may be reached through an OpenAI-compatible server: where it is, and how it is asked."""

    kind: str
    base_url: str = Field(default="", description="Endpoint only: URL, `/v1` included.")
    api_key_variable: str = Field(
        default="OPENAI_API_KEY",
        pattern=KEY_VARIABLE,
        description="Endpoint only: name of the environment variable that holds the key: OPENAI_API_KEY or CM3_…_KEY.",
    )
    timeout: float = Field(default=120.0, gt=0, description="Endpoint only: seconds to wait for one answer.")
    attempts: int = Field(default=6, ge=1, description="Endpoint only: tries before the row has the reason instead.")
    price_in: float = Field(default=0.0, ge=0, description="Endpoint only: price of a million input tokens.")

    @property
    def is_served(self) -> bool:
        """Whether a server has the model."""
        return self.kind in SERVED

    def is_from_hub(self) -> bool:
        """Never for an endpoint: its model lies there, under whatever name."""
        return not self.is_served and super().is_from_hub()

    @model_validator(mode="after")
    def _endpoints_have_a_url(self) -> Self:
        if self.is_served != bool(self.base_url):
            raise ValueError(f"base_url is needed for kinds {', '.join(map(repr, SERVED))}, and for no other kind")
        return self

    @model_validator(mode="after")
    def _servers_decide_what_they_are_not_told(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in NOT_TOLD if name in fields and getattr(self, name) != fields[name].default]
        if self.is_served and given:
            raise ValueError(f"{', '.join(given)}: of kind {self.kind!r} the server decides about it; leave it out")
        return self


class EncoderSpec(ServedSpec):
    """One encoder: everything that decides its vectors, and how much it is given at once."""

    kind: EncoderKind = Field(
        description="Which adapter loads the model; `sentence`, `embedding-endpoint` and the kinds ending in `_text` "
        "read texts, `multimodal` an item's text and all its pictures, the others pictures."
    )
    prompt: str = Field(default="", description="Put before every text, as some sentence models expect.")
    truncate_dim: int | None = Field(
        default=None, ge=1, description="Keep this many leading dimensions (Matryoshka models); null keeps them all."
    )
    max_tokens: int | None = Field(default=None, ge=2, description="Longest text in tokens; null is the model's limit.")
    image_size: int | None = Field(
        default=None, ge=16, description="Side of the picture given to a timm model, in pixels; null is the model's."
    )
    normalize: bool = Field(default=True, description="Store vectors of Euclidean length 1.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Pictures, or items of a multimodal model, per forward pass; null is 4 on a CPU, 64 on a GPU. Of "
        "an endpoint: texts per request; null is 32. Not part of the fingerprint.",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Tokens, with padding, per forward pass over texts; null is 512 on a CPU, 16,384 on a GPU. "
        "Not part of the fingerprint.",
    )

    @property
    def modality(self) -> Modality:
        """What the encoder reads: text of an `items` or `captions` table, pictures of an `images` table, or both."""
        if self.kind in get_args(ItemKind):
            return "multimodal"
        return "text" if self.kind in get_args(TextKind) else "image"


class Attribute(BaseModel):
    """One thing that a captioner is asked to say of a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Name, e.g. `colour`: part of a column's.")
    description: str = Field(default="", description="What the model is told about it.")
    values: tuple[str, ...] = Field(default=(), description="The only words allowed; empty: any.")


class CaptionSpec(ServedSpec):
    """One captioner: a vision-language model, loaded here or reached through an OpenAI-compatible endpoint."""

    kind: Literal["transformers", "endpoint"] = Field(description="Load the model here, or ask a server for it.")
    prompt: str = Field(
        default="Describe this product in one sentence.", description="Instruction given with the picture."
    )
    system: str = Field(default="", description="System message; empty sends none.")
    max_new_tokens: int = Field(default=48, ge=1, description="Longest answer, in tokens.")
    max_words: int = Field(default=60, ge=1, description="A longer answer gets status `too_long`; in words.")
    attributes: tuple[Attribute, ...] = Field(
        default=(),
        description="Ask for JSON with these instead of a sentence; an answer that is none is a row with a reason. "
        "Give `max_new_tokens` room for all of them.",
    )
    template: str = Field(
        default="",
        description="The caption made of the attributes, e.g. `a {colour} {material} {kind}`, for the encoder; what "
        "the model did not see is left out. Empty: `colour: red, material: wool`.",
    )
    batch_size: int = Field(default=8, ge=1, description="Pictures per forward pass; endpoint: requests in flight.")
    price_out: float = Field(default=0.0, ge=0, description="Endpoint only: price of a million output tokens.")

    @model_validator(mode="after")
    def _the_template_names_attributes(self) -> "CaptionSpec":
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) < len(names):
            raise ValueError(f"attributes: {', '.join(names)}: each name may come once")
        try:
            parts = [part for part in Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"template {self.template!r}: {error}") from error
        fields = {str(field) for _, field, _, _ in parts}
        if unknown := sorted(fields - set(names)):
            raise ValueError(f"template: {', '.join(unknown)} is none of the attributes: {', '.join(names) or 'none'}")
        if marked := [field for _, field, form, conversion in parts if form or conversion]:
            raise ValueError(f"template {self.template!r}: write {{{marked[0]}}} alone, without ! or : after the name")
        return self


class Preset(BaseModel):
    """The models behind the features' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoders: dict[str, EncoderSpec] = Field(description="Feature name → encoder. `caption` reads the captions table.")
    captioner: CaptionSpec = Field(description="What writes the captions.")


MINILM = EncoderSpec(
    kind="sentence",
    model="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    license="apache-2.0",
)
OFFLINE_MINILM = EncoderSpec(kind="sentence", model="offline:minilm", license="apache-2.0")
DEFAULT = Preset(
    encoders={
        "sentence": MINILM,
        "clip": EncoderSpec(
            kind="open_clip",
            model="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            revision="1a25a446712ba5ee05982a381eed697ef9b435cf",
            license="mit",
        ),
        "vision": EncoderSpec(
            kind="timm",
            model="timm/vit_small_patch14_dinov2.lvd142m",
            revision="4610ca143709d58a633b6397a74412c2c3842454",
            image_size=224,
            license="apache-2.0",
        ),
        "caption": MINILM,
    },
    captioner=CaptionSpec(
        kind="transformers",
        model="HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        revision="7b375e1b73b11138ff12fe22c8f2822d8fe03467",
        license="apache-2.0",
    ),
)


def _with(**encoders: EncoderSpec) -> Preset:
    """`default` with other encoders for some features, or further ones."""
    return Preset(encoders=DEFAULT.encoders | encoders, captioner=DEFAULT.captioner)


PRESETS: dict[str, Preset] = {
    "default": DEFAULT,
    "multilingual": _with(
        sentence=EncoderSpec(
            kind="sentence",
            model="intfloat/multilingual-e5-small",
            revision="fd1525a9fd15316a2d503bf26ab031a61d056e98",
            prompt="query: ",
            license="mit",
        )
    ),
    "ecommerce": _with(
        clip=EncoderSpec(
            kind="open_clip",
            model="Marqo/marqo-ecommerce-embeddings-B",
            revision="6854090aa39b2a9d70f390d83ae9e70cf9d9004e",
            license="apache-2.0",
        )
    ),
    "unified": _with(
        unified=EncoderSpec(
            kind="multimodal",
            model="Qwen/Qwen3-VL-Embedding-2B",
            revision="9f2f7e710d6d81056aa5c0a4f04764fec6bb7bda",
            license="apache-2.0",
        )
    ),
    "offline": Preset(
        encoders={
            "sentence": OFFLINE_MINILM,
            "clip": EncoderSpec(kind="open_clip", model="offline:clip-stand-in", license="apache-2.0"),
            "vision": EncoderSpec(kind="timm", model="offline:efficientnet-lite0", license="apache-2.0"),
            "caption": OFFLINE_MINILM,
        },
        captioner=CaptionSpec(
            kind="transformers",
            model="offline:tiny-llava",
            prompt="Describe the product.",
            max_new_tokens=24,
            license="apache-2.0",
        ),
    ),
}
"""`offline` needs only the installed packages; the others download from the hub once. docs/reference/models.md says
which one to take."""


class VectorsConfig(BaseModel):
    """Vectors that somebody else made, imported as a feature beside our own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="File with the vectors.")
    format: Literal["npy", "parquet", "amazon-2014"] = Field(
        description="`npy`: (n, dim) array beside a list of ids, as MMRec's image_feat.npy; `parquet`: id column and "
        "a list column; `amazon-2014`: records of a 10-byte ASIN and 4,096 float32, as image_features_*.b."
    )
    ids: str = Field(
        default="",
        description="npy only: text file with one id per line in row order, or with lines `id<TAB or comma>row` "
        "(MMRec's i_id_mapping.csv).",
    )
    id_column: str = Field(default="item_id", description="parquet only: name of the id column.")
    vector_column: str = Field(default="embedding", description="parquet only: name of the vectors' column.")
    normalize: bool = Field(default=True, description="Store vectors of Euclidean length 1.")

    @model_validator(mode="after")
    def _arrays_come_with_ids(self) -> "VectorsConfig":
        if (self.format == "npy") != bool(self.ids):
            raise ValueError("ids names the file of item ids for format 'npy', and for no other format")
        return self
