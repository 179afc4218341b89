"""What a training reads, the parameters of CM3, of evaluation, comparison and tuning, and what each gives back."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

Grid = Mapping[str, tuple[int | float | str, ...]]
"""Parameter → values to try."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingTables(_Frozen):
    """The tables that a training reads: paths or URIs of their Parquet folders."""

    interactions: str = Field(description="the interactions table, with its splits")
    features: dict[str, str] = Field(description="feature name → that feature's table")
    similarity: str | None = Field(
        default=None, description="the similarity table over these features; null: trainers compute the neighbours"
    )


class EvaluationConfig(_Frozen):
    """How a ranking is judged: the same for every recommender."""

    cutoffs: tuple[PositiveInt, ...] = Field(
        default=(5, 10, 20, 50), description="K of every metric@K, items", min_length=1
    )
    mask_validation: bool = Field(
        default=False, description="at test time, leave validation items out of the ranking as training items are"
    )
    block: int = Field(default=256, ge=1, description="users scored at once; memory grows with block × items")
    selection_metric: Literal["ndcg", "recall", "precision", "map", "hr", "mrr"] = Field(
        default="ndcg", description="validation metric that picks the epoch and the configuration"
    )
    selection_k: int = Field(default=20, ge=1, description="cut-off of the selection metric, items")
    judged_users: int = Field(
        default=25_000,
        ge=1,
        description="most users by whom an epoch and the filter's weight are chosen, drawn evenly from those with "
        "validation interactions; published metrics are measured on everyone",
    )
    cold_bounds: tuple[PositiveInt, ...] = Field(
        default=(1, 5, 20),
        description="lower bounds of item groups by training interactions, ascending; one more group lies below them",
    )

    @model_validator(mode="after")
    def _selection_is_measured(self) -> "EvaluationConfig":
        if self.selection_k not in self.cutoffs:
            raise ValueError(f"selection_k={self.selection_k} must be one of cutoffs={self.cutoffs}")
        return self

    @model_validator(mode="after")
    def _bounds_ascend(self) -> "EvaluationConfig":
        if list(self.cold_bounds) != sorted(set(self.cold_bounds)):
            raise ValueError(f"cold_bounds={self.cold_bounds} must ascend")
        return self

    def for_selection(self) -> "EvaluationConfig":
        """The same rule with `selection_k` as the only cut-off and without groups, which takes a fifth less time."""
        return self.model_copy(update={"cutoffs": (self.selection_k,), "cold_bounds": ()})


class RecommenderConfig(_Frozen):
    """Parameters of one recommender."""

    grid: ClassVar[Grid] = {}
    """What a search tries where it names no values of its own."""


class GraphFilterConfig(RecommenderConfig):
    """The closed-form filter on the interaction graph's leading directions (after GF-CF, arXiv 2108.07567)."""

    grid: ClassVar[Grid] = {"rank": (32, 64, 128, 256), "noise": (0.0, 0.01, 0.02, 0.05, 0.1)}
    rank: int = Field(default=64, ge=1, description="directions kept")
    noise: float = Field(
        default=0.02, ge=0, description="c: a direction of eigenvalue λ, in [0, 1], is kept by λ / (λ + c)"
    )


class TrainingConfig(RecommenderConfig):
    """What every trained recommender shares: optimiser, stopping rule, evaluator, seed."""

    dim: int = Field(default=64, ge=1, description="width of one block of an embedding, numbers")
    batch_size: int = Field(default=2048, ge=1, description="training interactions per batch")
    steps_per_epoch: int = Field(
        default=100,
        ge=1,
        description="most steps of the optimiser per epoch. Each propagates over the whole graph once; where an epoch "
        "has more batches, a step takes the mean loss of several of them, so that an epoch's time grows with the "
        "training interactions and not with their square",
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="Adam's step size; √m times as large in a step of m batches"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Adam's L2 penalty on every parameter")
    max_epochs: int = Field(default=1000, ge=1, description="maximum passes over the training interactions")
    patience: int = Field(
        default=20, ge=1, description="evaluations without a better validation metric before stopping"
    )
    evaluate_every: int = Field(default=1, ge=1, description="epochs between evaluations on validation")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of parameters, batches, negatives and fusion draws")
    score: Literal["dot", "cosine"] = Field(
        default="dot", description="dot product of a user's and an item's trained vector, or their cosine"
    )
    popularity_prior: float = Field(
        default=0.0,
        ge=0,
        description="β of the score's popularity prior: + β log(1 + the item's training interactions); one coordinate",
    )
    filter_weight: float | None = Field(
        default=0.0,
        ge=0,
        description="η of the score's closed-form part: + η · the graph filter's scores, scaled to length 1 per user; "
        "`filter.rank` more coordinates. null: chosen on validation after training, from 0 to 6",
    )
    filter: GraphFilterConfig = GraphFilterConfig()
    top_k: int = Field(default=50, ge=1, description="recommendations written for each user, items")
    device: str = Field(
        default="auto", description='"auto" (`CM3_DEVICE`, else CUDA where there is one), "cpu", "cuda:1", …'
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="precision of the large matrix products in training; parameters and evaluation stay float32. auto: "
        "bfloat16 where the machine multiplies it natively",
    )
    checkpoint_seconds: float = Field(default=30.0, ge=0, description="least time between two checkpoints, seconds")
    evaluation: EvaluationConfig = EvaluationConfig()


class ItemWeightsConfig(RecommenderConfig):
    """The item–item weights of the score: a ridge regression of each item on few others, chosen on validation.

    Column i solves (G + α S + λ I) w = G_i + α S_i on its candidates: G counts common users, S is the content's cosine.
    """

    candidates: int = Field(
        default=100,
        ge=1,
        description="items most often chosen with an item, and as many most alike, that may speak for it",
    )
    alphas: tuple[float, ...] = Field(
        default=(0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0), description="α: weights of content to try", min_length=1
    )
    penalties: tuple[PositiveFloat, ...] = Field(
        default=(50.0, 100.0, 200.0, 400.0), description="λ: ridge penalties to try", min_length=1
    )
    kept: tuple[PositiveInt, ...] = Field(
        default=(20, 50, 100),
        description="numbers of largest positive weights per item to try; the smallest that loses at most 0.1 % of the "
        "validation figure is kept, else all weights, negative ones too",
    )
    warm_kept: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="least share of their NDCG that items chosen before must keep when items that nobody chose yet are "
        "ranked among them; the lower, the more often those are shown",
    )
    judged_users: int = Field(default=5000, ge=1, description="users that choices are judged by, at most")
    judged_items: int = Field(
        default=4000,
        ge=1,
        description="items that choices are judged among; more where the judged users chose more later",
    )


class CM3Config(TrainingConfig):
    """CM3's hyper-parameters, with the paper's names (arXiv 2508.01226)."""

    grid: ClassVar[Grid] = {
        "layers": (3, 4),
        "gamma": (0.5, 0.9),
        "max_sim": (0.8, 1.0),
        "alpha": (0.1, 0.5, 0.9),
        "weight_decay": (0.0, 1e-6),
    }
    score: Literal["dot", "cosine"] = Field(
        default="cosine", description="dot product of a user's and an item's trained vector, or their cosine"
    )
    popularity_prior: float = Field(
        default=0.2,
        ge=0,
        description="β of the score's popularity prior: + β log(1 + the item's training interactions). With uniform "
        "negatives exp(2t cosine) learns p(item | user) / p(item), so theory says 1 / (2t); 0 is the paper's score",
    )
    filter_weight: float | None = Field(
        default=None,
        ge=0,
        description="η of the score's closed-form part: + η · the graph filter's scores, scaled to length 1 per user; "
        "`filter.rank` more coordinates. null: chosen on validation after training, 0 to 6; 0 is the paper's score",
    )
    layers: int = Field(
        default=4, ge=0, description="L: LightGCN layers on the user-item graph; the sum of layers 0 to L is used"
    )
    smoothing: float = Field(
        default=0.02,
        ge=0,
        description="c of the filter M (M + c)^-1 on published item vectors, M = the item-item part of A²: it removes "
        "directions that hardly any training interaction supports; 0: no filter, as in the paper",
    )
    gamma: float = Field(default=0.9, ge=0, description="γ: weight of uniformity against alignment")
    temperature: float = Field(default=2.0, gt=0, description="t of the Gaussian potential exp(-t ||a - b||²)")
    min_sim: float = Field(default=0.0, ge=-1, le=1, description="lower clamp of the content similarity s, cosine")
    max_sim: float = Field(default=1.0, ge=-1, le=1, description="upper clamp of the content similarity s, cosine")
    alpha: float = Field(default=0.5, gt=0, description="α: Bézier positions are drawn from Beta(α, α) while training")
    neighbors: int = Field(default=10, ge=1, description="k of the item graph, items, self included")
    modality_weights: dict[str, float] | None = Field(
        default=None, description="feature name → its share in the item graph; null: equal shares"
    )
    feature_rank: int | None = Field(
        default=256,
        ge=1,
        description="principal directions of each feature that the encoders read; null: the whole vectors",
    )
    fusion: bool = Field(
        default=True,
        description="use the fused Bézier block; false is an ablation (s still reads the fused content)",
    )
    calibration: Literal["fused", "frozen", "none"] = Field(
        default="frozen",
        description="source of s: the fused vector as in the paper, the raw features' weighted cosine, or s = 1 (plain "
        "uniformity)",
    )
    item_weights: ItemWeightsConfig | None = Field(
        default=ItemWeightsConfig(),
        description="the score's item–item weights, a closed form that sees choices and content; null: none",
    )
    refit: bool = Field(
        default=True,
        description="after measuring, train once more on all interactions, for the number of epochs that validation "
        "chose, and publish that: embeddings, weights and recommendations. false: publish what was measured",
    )
    exclude: Literal["all", "train", "none"] = Field(
        default="all",
        description="what a user's recommendations leave out: every item that the user chose, those chosen in training "
        "(evaluation's lists), or nothing",
    )
    processes: int = Field(
        default=1,
        ge=1,
        description="processes that train together, on this machine or on several, each with its share of the users, "
        "the items and the coordinates; they need the CPU. One gives the same numbers but for rounding",
    )
    published: bool = Field(
        default=False,
        description="reproduce the authors' code: s is of the fused vector and gradients flow through it, evaluation "
        "reads the last training step's embeddings, unsmoothed, with their random fusion, weight_decay is not applied",
    )

    @model_validator(mode="after")
    def _clamp_is_ordered(self) -> "CM3Config":
        if self.min_sim > self.max_sim:
            raise ValueError(f"min_sim={self.min_sim} must not exceed max_sim={self.max_sim}")
        return self


def trained_width(lineage: Mapping[str, str], width: int) -> int:
    """How many leading numbers of an embedding are the trained vector; the rest are terms of the score.

    To compare items with items, use the trained vector alone: the terms say how likely an item is, not what it is.

    Args:
        lineage: metadata of a published `embeddings/items` or `embeddings/users`.
        width: numbers in the whole embedding.
    Returns: `width` for embeddings that CM3 did not make.
    """
    if lineage.get("cm3.encoder") != "cm3":
        return width
    config = CM3Config(**json.loads(lineage["cm3.config"]))
    features = sum(name.startswith("features/") for name in json.loads(lineage["cm3.inputs"]))
    blocks: int = features + config.fusion
    return blocks * config.dim


class TrainingJob(_Frozen):
    """What the processes of one training are told; see `trainers.cm3.train.run`."""

    tables: TrainingTables
    output: str
    config: CM3Config
    never_shown: tuple[str, ...]
    checkpoint: str


class ComparisonConfig(_Frozen):
    """Which recommenders are trained side by side, and how often."""

    models: tuple[str, ...] = Field(default=(), description="names of the recommenders; empty: all of them")
    seeds: tuple[NonNegativeInt, ...] = Field(
        default=(0, 1, 2, 3, 4), description="one training per recommender and seed", min_length=1
    )
    ablations: bool = Field(
        default=False, description="add CM3 without each of its parts, and with and without each feature"
    )
    cm3: CM3Config = CM3Config()
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="recommender → parameters that differ from its defaults"
    )

    lists: dict[str, str] = Field(
        default_factory=dict,
        description="label → path or URI of somebody else's ranked lists (Parquet: user_id, item_id, rank), judged too",
    )

    @model_validator(mode="after")
    def _each_once(self) -> "ComparisonConfig":
        for name, values in (("models", self.models), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must name each once")
        return self

    @model_validator(mode="after")
    def _overrides_leave_what_is_shared(self) -> "ComparisonConfig":
        for name, values in self.overrides.items():
            if shared := sorted({"seed", "evaluation"} & set(values)):
                raise ValueError(f"overrides of {name}: {shared} are the same for all: `seeds`, `cm3.evaluation`")
        return self


class ComparisonRow(_Frozen):
    """One recommender's row in the comparison."""

    model: str
    runs: int
    validation: float = Field(description="selection metric on validation, mean over the runs")
    mean: float = Field(description="selection metric on test, mean over the runs")
    spread: float = Field(description="standard deviation over the runs (n - 1); 0 for one run")
    low: float | None = Field(default=None, description="95 % interval of the mean over users, by bootstrap")
    high: float | None = Field(default=None, description="its upper end; both null for a single user")
    p_value: float | None = Field(description="two-sided paired t-test against CM3 over users; null for CM3 itself")
    p_holm: float | None = Field(default=None, description="the same, by Holm's correction over all rows of the table")
    ahead: float | None = Field(default=None, description="CM3's mean over this one, less 1; null for CM3 itself")
    ahead_low: float | None = Field(default=None, description="95 % interval of `ahead` over users, by bootstrap")
    ahead_high: float | None = Field(default=None, description="its upper end")
    seconds: float = Field(description="training time, mean over the runs")
    parameters: int = Field(description="trained numbers")
    metrics: dict[str, float] = Field(description="test metrics, means over the runs")
    cold: dict[str, dict[str, float]] = Field(
        default={},
        description='"cold" (all items ranked) and "cold_only" (hidden ones alone) → metrics of hidden items; empty '
        "for recommenders that are trained or do not look at content",
    )


class TuningConfig(_Frozen):
    """A search over a recommender's grid, judged on validation alone."""

    model: str = Field(default="cm3", description="recommender whose parameters are searched")
    trials: int = Field(default=48, ge=1, description="maximum number of configurations tried, over all restarts")
    base: dict[str, Any] = Field(default_factory=dict, description="parameters that stay the same in every trial")
    space: Grid | None = Field(default=None, description="parameter → values to try; null: the recommender's own grid")
    warmup_epochs: int = Field(default=10, ge=0, description="epochs before a trial may be pruned")


class TuningResult(_Frozen):
    """The configuration that validation chose, and what it gave on test."""

    model: str
    best: dict[str, Any] = Field(description="the chosen values of the searched parameters")
    config: dict[str, Any] = Field(description="the whole configuration of the chosen trial")
    validation: float
    test: dict[str, float] = Field(description="metrics of the one evaluation on test")
    finished: int = Field(description="trials trained to their end")
    pruned: int = Field(description="trials stopped early")


class TrainingResult(_Frozen):
    """What one training run produced: small enough to travel between tasks."""

    model: str
    files: dict[str, str] = Field(description="table name → path of its Parquet file")
    trained: str = Field(description="folder of the trained model's files")
    best_epoch: int = Field(description="epoch (from 1) whose embeddings were kept")
    epochs: int = Field(description="epochs trained, over all restarts")
    validation: float = Field(description="selection metric on validation at the best epoch")
    test: dict[str, float] = Field(description='test metrics, e.g. "ndcg@20"')
    popularity: dict[str, float] = Field(description="the popularity baseline's test metrics")
    seconds: float = Field(description="training and evaluation time over all restarts, seconds")
    items: int
    users: int
    parameters: int = Field(description="trained numbers")
    dim: int = Field(description="width of the embeddings, numbers")
