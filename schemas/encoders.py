"""Parameters of encoders and captioners, and the two presets that name the models of each feature."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

TextKind = Literal["sentence", "open_clip_text", "transformers_clip_text"]
ImageKind = Literal["open_clip", "timm", "transformers_clip"]
EncoderKind = Literal[TextKind, ImageKind]
"""Kinds of encoders, by what they read. `ADAPTERS` in pipeline/encoders/load.py says what loads each of them."""
Modality = Literal["text", "image"]
Dtype = Literal["auto", "float32", "bfloat16"]

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
        description="Hub commit (40 hex digits) of the model; required for a hub repository. An "
        "endpoint's may be any word of your own: changing it has every picture captioned again.",
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


class EncoderSpec(ModelSpec):
    """One encoder: everything that decides its vectors, and how much it is given at once."""

    kind: EncoderKind = Field(
        description="Which adapter loads the model; `sentence` and the kinds ending in `_text` read texts."
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
        description="Pictures per forward pass; null is 8 on a CPU, 64 on a GPU. Not part of the fingerprint.",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Tokens, with padding, per forward pass over texts; null is 512 on a CPU, 16,384 on a GPU. "
        "Not part of the fingerprint.",
    )

    @property
    def modality(self) -> Modality:
        """What the encoder reads: text of an `items` or `captions` table, or pictures of an `images` table."""
        return "text" if self.kind in get_args(TextKind) else "image"


class CaptionSpec(ModelSpec):
    """One captioner: a vision-language model, loaded here or reached through an OpenAI-compatible endpoint."""

    kind: Literal["transformers", "endpoint"] = Field(description="Load the model here, or ask a server for it.")
    prompt: str = Field(
        default="Describe this product in one sentence.", description="Instruction given with the picture."
    )
    system: str = Field(default="", description="System message; empty sends none.")
    max_new_tokens: int = Field(default=48, ge=1, description="Longest answer, in tokens.")
    max_words: int = Field(default=60, ge=1, description="A longer answer gets status `too_long`; in words.")
    batch_size: int = Field(default=8, ge=1, description="Pictures per forward pass; endpoint: requests in flight.")
    base_url: str = Field(default="", description="Endpoint only: URL up to and with `/v1`.")
    api_key_variable: str = Field(
        default="OPENAI_API_KEY",
        pattern=KEY_VARIABLE,
        description="Endpoint only: name of the environment variable that holds the key: OPENAI_API_KEY or CM3_…_KEY.",
    )
    timeout: float = Field(default=120.0, gt=0, description="Endpoint only: seconds to wait for one answer.")
    attempts: int = Field(default=6, ge=1, description="Endpoint only: tries before the row says `error`.")
    price_in: float = Field(default=0.0, ge=0, description="Endpoint only: price of a million input tokens.")
    price_out: float = Field(default=0.0, ge=0, description="Endpoint only: price of a million output tokens.")

    def is_from_hub(self) -> bool:
        """Never for an endpoint: its model lies there, under whatever name."""
        return self.kind == "transformers" and super().is_from_hub()

    @model_validator(mode="after")
    def _endpoints_have_a_url(self) -> "CaptionSpec":
        if (self.kind == "endpoint") != bool(self.base_url):
            raise ValueError("base_url is needed for kind 'endpoint', and for no other kind")
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
)
OFFLINE_MINILM = EncoderSpec(kind="sentence", model="offline:minilm")

PRESETS: dict[str, Preset] = {
    "default": Preset(
        encoders={
            "sentence": MINILM,
            "clip": EncoderSpec(
                kind="open_clip",
                model="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                revision="1a25a446712ba5ee05982a381eed697ef9b435cf",
            ),
            "vision": EncoderSpec(
                kind="timm",
                model="timm/vit_small_patch14_dinov2.lvd142m",
                revision="4610ca143709d58a633b6397a74412c2c3842454",
                image_size=224,
            ),
            "caption": MINILM,
        },
        captioner=CaptionSpec(
            kind="transformers",
            model="HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
            revision="7b375e1b73b11138ff12fe22c8f2822d8fe03467",
        ),
    ),
    "offline": Preset(
        encoders={
            "sentence": OFFLINE_MINILM,
            "clip": EncoderSpec(kind="open_clip", model="offline:clip-stand-in"),
            "vision": EncoderSpec(kind="timm", model="offline:efficientnet-lite0"),
            "caption": OFFLINE_MINILM,
        },
        captioner=CaptionSpec(
            kind="transformers", model="offline:tiny-llava", prompt="Describe the product.", max_new_tokens=24
        ),
    ),
}
"""`default` needs the hub once; `offline` needs nothing but the installed packages. See docs/reference/models.md."""


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
