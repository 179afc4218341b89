"""CM3's network: every embedding has one block per modality and one for their fusion."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from schemas.training import CM3Config
from trainers.cm3.bezier import spherical_bezier
from trainers.cm3.losses import ContentSimilarity, alignment, calibrated_uniformity, uniformity
from trainers.cm3.sphere import unit
from trainers.cm3.subspace import coordinates, principal_directions
from trainers.data import Dataset, modality_shares
from trainers.fit import Batch, EmbeddingModel, Tables, matrix_precision
from trainers.graphs import Graph, propagate, smooth_items
from trainers.processes import ALONE, Processes
from trainers.propagated import Table, gather
from trainers.scores import Embeddings

FeatureDirections = dict[str, NDArray[np.float32]]
"""Feature → the directions in which the encoders read it, (width, rank); a feature that is not in it is read whole."""


PER_USER = frozenset({"user_blocks", "user_fusion"})
"""Parameters with one row per user."""


class Representations(NamedTuple):
    """What one forward pass gives: user and item vectors, and the fused content, whose rows are unit or zero."""

    users: Float[Tensor, "users dim"]
    items: Float[Tensor, "items dim"]
    content: Float[Tensor, "items block"]


class ModalityEncoder(nn.Module):
    """A modality's block W2 · LeakyReLU(W1 x + b1) and its fusion input V x + c, both (items, dim)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * dim)
        self.out = nn.Linear(4 * dim, dim, bias=False)
        self.fusion = nn.Linear(width, dim)
        nn.init.xavier_normal_(self.fusion.weight)

    def forward(self, x: Float[Tensor, "items width"]) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        # One product with both layers' weights reads the features once.
        weight = torch.cat([self.hidden.weight, self.fusion.weight])
        both = functional.linear(x, weight.to(x.dtype)).to(weight.dtype)
        hidden, fusion = both.tensor_split([len(self.hidden.weight)], dim=1)
        block = self.out(functional.leaky_relu(hidden + self.hidden.bias))
        return block, fusion + self.fusion.bias


class CM3(EmbeddingModel):
    """CM3 for any number of modalities, each of which any item may lack.

    Where an item lacks a modality, that modality's block is a learned vector shared by all items that lack it, and the
    item's fusion leaves the modality out. Parameters are drawn from `config.seed`.

    Args:
        dataset: users, items and features.
        user_item: normalised adjacency of users and items, users first.
        item_item: frozen neighbours of each item.
        directions: feature → the directions in which its vectors are read, where the parameters were trained on other
            items; by default those of `dataset`.
        processes: which train it together. Parameters of users, features and all that is computed of users and items
            are then of this process's rows.
    """

    name = "cm3"
    dealt = PER_USER

    def __init__(
        self,
        dataset: Dataset,
        config: CM3Config,
        user_item: Graph,
        item_item: Graph,
        directions: FeatureDirections | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config, self.user_item, self.item_item = config, user_item, item_item
        self.processes = processes
        self.user_count, self.item_count = len(dataset.users), len(dataset.items)
        self.decayed = not config.published
        device = user_item.weights.device
        self.precision = matrix_precision(config.precision, device)
        # The first's for all: another processor may find them with the other sign.
        self.directions = processes.first(
            lambda: feature_directions(dataset, config) if directions is None else directions
        )
        features = [coordinates(m.matrix, self.directions.get(name)) for name, m in dataset.features.items()]
        blocks = len(features) + config.fusion
        self.encoders = nn.ModuleList(ModalityEncoder(x.shape[1], config.dim) for x in features)
        user_blocks = torch.empty(self.user_count, blocks, config.dim)
        for block in range(blocks):
            nn.init.xavier_normal_(user_blocks[:, block])
        self.user_blocks = nn.Parameter(processes.part(user_blocks))
        user_fusion = nn.init.xavier_normal_(torch.empty(self.user_count, blocks))
        self.user_fusion = nn.Parameter(processes.part(user_fusion))
        self.absent = nn.Parameter(nn.init.xavier_normal_(torch.empty(blocks, config.dim)))
        self.matrices = [processes.part(torch.from_numpy(x)).to(device, self.precision) for x in features]
        is_frozen = config.calibration == "frozen" and not config.published
        frozen = processes.part(frozen_content(features, dataset, config)).to(device) if is_frozen else None
        self.frozen = None if frozen is None else processes.table(frozen)
        present = torch.from_numpy(np.stack([f.present for f in dataset.features.values()]))
        self.register_buffer("present", present[:, processes.share(self.item_count)], persistent=False)
        self.last_step: Embeddings | None = None
        self.present: Bool[Tensor, "modalities items"]

    def item_blocks(
        self, positions: Float[Tensor, "steps items"] | None
    ) -> tuple[Float[Tensor, "items blocks dim"], Tensor]:
        """Unit blocks of every item, the fused one last, and the content vectors that s is computed from."""
        encoded = [encoder(x) for encoder, x in zip(self.encoders, self.matrices, strict=True)]
        blocks = [unit(h) for h, _ in encoded]
        points = torch.stack([unit(z) for _, z in encoded])
        content = spherical_bezier(points, self.present, positions)
        masks = list(self.present)
        if self.config.fusion:
            blocks, masks = [*blocks, content], [*masks, self.present.any(0)]
        absent = unit(self.absent)
        filled = [
            block if mask.all() else torch.where(mask[:, None], block, absent[i])
            for i, (block, mask) in enumerate(zip(blocks, masks, strict=True))
        ]
        return torch.stack(filled, dim=1), content

    def forward(self, positions: Float[Tensor, "steps items"] | None = None) -> Representations:
        """All users' and items' vectors.

        Args:
            positions: λ of every step of every item's fusion; None: 0.5, which makes embeddings deterministic.
        """
        users, items, content = self.propagate_blocks(positions)
        return Representations(fuse(users, self.user_fusion), items, content)

    def propagate_blocks(self, positions: Float[Tensor, "steps items"] | None) -> Representations:
        """Blocks after propagation over both graphs, the users' before their weights."""
        items, content = self.item_blocks(positions)
        users, items = unit(self.user_blocks).flatten(1), items.flatten(1)
        width, processes = items.shape[1], self.processes
        both = torch.cat([processes.to_columns(users), processes.to_columns(items)])
        users, items = propagate(both, self.user_item, self.config.layers).tensor_split([self.user_count])
        items = propagate(items, self.item_item, 1)
        return Representations(processes.to_rows(users, width), processes.to_rows(items, width), content)

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Users' blocks, items' vectors and content after propagation, with λ drawn for every item; users' logits."""
        config = self.config
        positions = rng.beta(config.alpha, config.alpha, (len(self.matrices) - 1, self.item_count))
        mine = torch.from_numpy(positions[:, self.processes.share(self.item_count)])
        blocks = self.propagate_blocks(mine.to(self.user_blocks))
        if config.published:
            self.last_step = Embeddings(fuse(blocks.users, self.user_fusion).detach(), blocks.items.detach())
        return (*blocks, self.user_fusion)

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """The terms of one batch; "loss" is their weighted sum."""
        config = self.config
        blocks, items, content, logits = tables
        # Each user and negative of the batch is gathered and normalised once, however often the batch has it.
        user, in_batch, count = torch.unique(batch.users, return_inverse=True, return_counts=True)
        negative, negative_count = torch.unique(batch.negatives[batch.negatives >= 0], return_counts=True)
        users = unit(fuse(blocks[user], logits[user]))
        align = alignment(gather(users, in_batch), unit(items[batch.items]))
        of_users = uniformity(users, config.temperature, count, self.precision)
        similarity = self._similarity(content, negative)
        of_items = calibrated_uniformity(
            unit(items[negative]), similarity, config.temperature, negative_count, self.precision
        )
        total = align + config.gamma / 2 * (of_users + of_items)
        return {"loss": total, "alignment": align, "uniformity": of_users, "calibrated_uniformity": of_items}

    def _similarity(self, content: Table, rows: Int[Tensor, " n"]) -> Float[Tensor, "n n"] | ContentSimilarity | None:
        """s of the sampled negatives; its gradient, kept with `published` only, makes training raise s, not obey it."""
        config = self.config
        if config.calibration == "none":
            return None
        chosen = content[rows] if config.published else (self.frozen or content).constant(rows)
        similarity = ContentSimilarity(chosen, config.min_sim, config.max_sim)
        return similarity[:, :] if config.published else similarity

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Users' and items' vectors from the current parameters, with λ = 0.5 and smoothed items.

        With `published`, the vectors of the last training step: one step old, with its random λ, not smoothed.
        """
        if self.config.published and self.last_step is not None:
            return self.last_step
        users, items, _ = self()
        if self.config.smoothing:
            columns = self.processes.to_columns(items)
            smooth = smooth_items(columns, self.user_item, self.user_count, self.config.smoothing)
            items = self.processes.to_rows(smooth, items.shape[1])
        return Embeddings(users, items)

    def whole_parameters(self) -> dict[str, Tensor]:
        """The parameters of all users, in the first process."""
        return {
            name: self.processes.whole(part) if name in self.dealt else part for name, part in self.state_dict().items()
        }


def fuse(blocks: Float[Tensor, "users width"], logits: Float[Tensor, "users blocks"]) -> Float[Tensor, "users width"]:
    """Users' vectors: each block times the user's own softmax weight."""
    share = torch.softmax(logits, dim=1)[:, :, None]
    return (blocks.view(len(blocks), share.shape[1], -1) * share).flatten(1)


def feature_directions(dataset: Dataset, config: CM3Config) -> FeatureDirections:
    """The principal directions of these items' features; without those that are read whole."""
    rank = config.feature_rank
    if rank is None:
        return {}
    found = {name: principal_directions(modality.matrix, rank) for name, modality in dataset.features.items()}
    return {name: directions for name, directions in found.items() if directions is not None}


def frozen_content(
    features: list[NDArray[np.float32]], dataset: Dataset, config: CM3Config
) -> Float[Tensor, "items widths"]:
    """Unit rows; between items with every feature, their dot product is the mean cosine by `modality_weights`.

    An item that lacks a feature has the other features' part alone, scaled to length 1; without any, a zero row.

    Args:
        features: one matrix per modality, (items, width of the modality).
    """
    weights = modality_shares(config.modality_weights, dataset.features)
    parts = [
        unit(torch.from_numpy(matrix)) * torch.from_numpy(modality.present)[:, None] * weights[modality.name] ** 0.5
        for matrix, modality in zip(features, dataset.features.values(), strict=True)
    ]
    return unit(torch.cat(parts, dim=1).float())
