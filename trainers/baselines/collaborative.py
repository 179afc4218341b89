"""Recommenders from identifiers alone: BPR-MF, LightGCN, DirectAU."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from schemas.baselines import BPRConfig, DirectAUConfig, LightGCNConfig
from trainers.cm3.losses import alignment, uniformity
from trainers.data import Dataset
from trainers.fit import Batch, EmbeddingModel, Tables, torch_device
from trainers.graphs import Graph, propagate, user_item_adjacency
from trainers.propagated import Table
from trainers.scores import Embeddings


def preference(
    users: Float[Tensor, "batch dim"], items: Float[Tensor, "batch dim"], negatives: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """The BPR loss, -log σ(u·i⁺ - u·i⁻), mean over the batch."""
    return -functional.logsigmoid((users * (items - negatives)).sum(-1)).mean()


def complete(batch: Batch) -> Batch:
    """The batch without users who have chosen every item: they have no negative to rank below."""
    kept = batch.negatives >= 0
    return batch if bool(kept.all()) else Batch(*(rows[kept] for rows in batch))


class BPR(EmbeddingModel):
    """Matrix factorisation with the BPR loss.

    Source: Rendle et al., arXiv 1205.2618.
    """

    name = "bpr"

    def __init__(self, dataset: Dataset, config: BPRConfig) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.users = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(dataset.users), config.dim)))
        self.items = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(dataset.items), config.dim)))

    def vectors(self) -> Embeddings:
        """Users' and items' vectors, with gradients."""
        return Embeddings(self.users, self.items)

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return (*self.vectors(), self.users, self.items)

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = complete(batch)
        users, items, own_users, own_items = tables
        rank = preference(users[batch.users], items[batch.items], items[batch.negatives])
        own = (own_users[batch.users], own_items[batch.items], own_items[batch.negatives])
        norm = sum(((part.square().sum(-1).mean() / 2) for part in own), torch.zeros((), device=rank.device))
        return {"loss": rank + self.config.regularization * norm, "bpr": rank, "norm": norm}

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        return self.vectors()


class LightGCN(BPR):
    """BPR on the mean of the layers of light graph convolution.

    Source: He et al., arXiv 2002.02126.
    """

    name = "lightgcn"

    def __init__(self, dataset: Dataset, config: LightGCNConfig) -> None:
        super().__init__(dataset, config)
        self.layers = config.layers
        self.graph = Graph.of(user_item_adjacency(dataset.matrix("train")), torch_device(config.device))

    def vectors(self) -> Embeddings:
        mean = propagate(torch.cat([self.users, self.items]), self.graph, self.layers) / (self.layers + 1)
        return Embeddings(mean[: len(self.users)], mean[len(self.users) :])


class DirectAU(EmbeddingModel):
    """Alignment and uniformity of users and items.

    Source: Wang et al., arXiv 2206.12811. As in the paper, item uniformity is over the batch's chosen items.
    """

    name = "directau"

    def __init__(self, dataset: Dataset, config: DirectAUConfig) -> None:
        super().__init__()
        self.config = config
        shared = config.model_dump(exclude={"gamma"})
        self.encoder = LightGCN(dataset, LightGCNConfig(**shared))

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(functional.normalize(part, dim=-1) for part in self.encoder.vectors())

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        users, items = tables
        align = alignment(users[batch.users], items[batch.items])
        of_users, of_items = self._uniformity(users, batch.users), self._uniformity(items, batch.items)
        total = align + self.config.gamma * (of_users + of_items) / 2
        return {"loss": total, "alignment": align, "user_uniformity": of_users, "item_uniformity": of_items}

    @staticmethod
    def _uniformity(vectors: Table, rows: Tensor) -> Tensor:
        distinct, counts = torch.unique(rows, return_counts=True)
        return uniformity(vectors[distinct], counts=counts)

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        return self.encoder.vectors()
