"""Parameters of the recommenders that CM3 is measured against."""

from typing import ClassVar

from pydantic import Field

from schemas.training import Grid, RecommenderConfig, TrainingConfig


class RandomConfig(RecommenderConfig):
    """The random ranking has no parameters."""


class PopularityConfig(RecommenderConfig):
    """The popularity ranking has no parameters."""


class ContentKNNConfig(RecommenderConfig):
    """Item neighbours by content: an item's score is its likeness to the user's training items."""

    grid: ClassVar[Grid] = {"neighbors": (5, 10, 20, 50, 100)}
    neighbors: int = Field(default=50, ge=1, description="nearest neighbours counted per item, items")
    modality_weights: dict[str, float] | None = Field(
        default=None, description="feature name → its share; null: equal shares"
    )


class ItemKNNConfig(RecommenderConfig):
    """Item neighbours by interactions: its likeness, by common users, to the user's training items."""

    grid: ClassVar[Grid] = {"neighbors": (20, 50, 100, 200, 500), "shrinkage": (0.0, 5.0, 20.0, 100.0)}
    neighbors: int = Field(default=100, ge=1, description="nearest neighbours counted per item, items")
    shrinkage: float = Field(default=5.0, ge=0, description="added to the cosine's denominator, users")


class EASEConfig(RecommenderConfig):
    """EASE (arXiv 1905.03375): a linear model with a closed form."""

    grid: ClassVar[Grid] = {"l2": (20.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)}
    l2: float = Field(default=300.0, gt=0, description="λ: ridge penalty on the item-to-item weights")


class ContentEASEConfig(EASEConfig):
    """EASE with content: the items' cosine counts beside their common users."""

    grid: ClassVar[Grid] = {"alpha": (1.0, 5.0, 20.0, 50.0), "l2": (50.0, 100.0, 200.0, 400.0)}
    l2: float = Field(default=100.0, gt=0, description="λ: ridge penalty on the item-to-item weights")
    alpha: float = Field(default=20.0, ge=0, description="α: how many common users a cosine of 1 counts as")
    modality_weights: dict[str, float] | None = Field(
        default=None, description="feature name → its share; null: equal shares"
    )


class BPRConfig(TrainingConfig):
    """Matrix factorisation with the BPR loss (arXiv 1205.2618)."""

    grid: ClassVar[Grid] = {"regularization": (0.0, 1e-4, 1e-3, 1e-2), "learning_rate": (1e-3, 5e-3)}
    regularization: float = Field(default=1e-4, ge=0, description="weight of the batch's squared norms in the loss")


class LightGCNConfig(BPRConfig):
    """LightGCN (arXiv 2002.02126)."""

    grid: ClassVar[Grid] = {**BPRConfig.grid, "layers": (2, 3, 4)}
    layers: int = Field(default=3, ge=0, description="convolutions; the mean of layers 0..L is used")


class DirectAUConfig(TrainingConfig):
    """DirectAU (arXiv 2206.12811): alignment and uniformity of identifiers alone."""

    grid: ClassVar[Grid] = {"gamma": (0.5, 1.0, 2.0), "layers": (0, 2, 3)}
    layers: int = Field(default=2, ge=0, description="LightGCN layers of the encoder; 0 is matrix factorisation")
    gamma: float = Field(default=1.0, ge=0, description="γ: weight of uniformity against alignment")


class VBPRConfig(BPRConfig):
    """VBPR (arXiv 1510.01784), with all features concatenated as the content."""


class FREEDOMConfig(LightGCNConfig):
    """FREEDOM (arXiv 2211.06924): a frozen item graph, and user-item edges dropped by degree."""

    grid: ClassVar[Grid] = {"edge_dropout": (0.0, 0.5, 0.8), "content_weight": (0.0, 1e-3, 1e-1)}
    layers: int = Field(default=2, ge=0, description="convolutions on the user-item graph")
    item_layers: int = Field(default=1, ge=0, description="convolutions on the item graph")
    neighbors: int = Field(default=10, ge=1, description="k of the item graph, items, self included")
    modality_weights: dict[str, float] | None = Field(
        default=None, description="feature name → its share in the item graph; null: equal shares"
    )
    edge_dropout: float = Field(default=0.8, ge=0, lt=1, description="share of the edges left out per epoch")
    content_weight: float = Field(default=1e-3, ge=0, description="λ: weight of the losses on projected features")


class BM3Config(LightGCNConfig):
    """BM3 (arXiv 2207.05969): bootstrapped views in place of negatives."""

    grid: ClassVar[Grid] = {"layers": (1, 2), "dropout": (0.3, 0.5), "regularization": (0.1, 0.01)}
    layers: int = Field(default=1, ge=0, description="convolutions on the user-item graph")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="share of the numbers in target vectors set to 0")
    content_weight: float = Field(default=2.0, ge=0, description="weight of the alignment with the features")
    regularization: float = Field(default=0.1, ge=0, description="weight of the vectors' mean squared norm in the loss")


class MGCNConfig(LightGCNConfig):
    """MGCN (arXiv 2308.03588): purified content, three graphs' views, a contrast between choices and content."""

    grid: ClassVar[Grid] = {
        "contrast_weight": (0.001, 0.01, 0.1),
        "regularization": (1e-4, 1e-3, 1e-2),
        "learning_rate": (1e-3, 5e-3),
    }
    layers: int = Field(default=2, ge=0, description="convolutions on the user-item graph")
    neighbors: int = Field(default=10, ge=1, description="k of each feature's item graph, items, self included")
    contrast_weight: float = Field(default=0.01, ge=0, description="λ_C: weight of the contrast in the loss")
    contrast_temperature: float = Field(default=0.2, gt=0, description="τ of the contrast")
