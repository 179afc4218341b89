"""MGCN: content purified by choices, seen by three graphs' views, and fused by what a user's behaviour says."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from schemas.baselines import MGCNConfig
from trainers.baselines.collaborative import LightGCN, complete, preference
from trainers.baselines.multimodal import unit_features
from trainers.data import Dataset
from trainers.fit import Batch, Tables, torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, propagate
from trainers.propagated import Table
from trainers.scores import Embeddings

Nodes = Float[Tensor, "nodes dim"]


class MGCN(LightGCN):
    """A vector from identifiers by LightGCN, plus one from content, drawn together by a contrast between the two.

    Source: Yu et al., ACM MM 2023 (arXiv 2308.03588), whose names stand in brackets below. Differs: features are
    L2-normalised and stay as they are; the item graphs are CM3's, one for each feature: row-normalised, neighbours of
    equal weight, and an item without the feature keeps its own vector; the contrast is over a batch's distinct users
    and items, and a mean, not a sum.
    """

    name = "mgcn"

    def __init__(self, dataset: Dataset, config: MGCNConfig) -> None:
        super().__init__(dataset, config)
        self.mgcn = config
        features, width = unit_features(dataset), config.dim
        neighbors = dataset.neighbors or exact_neighbors(dataset.features, k=config.neighbors - 1)
        device = torch_device(config.device)
        self.item_graphs = [
            Graph.of(item_item_adjacency(neighbors, {name: f}, k=config.neighbors, weights=None), device)
            for name, f in dataset.features.items()
        ]
        self.projections = nn.ModuleList(nn.Linear(x.shape[1], width) for x in features)
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in features)
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        self.preferences = nn.ModuleList(nn.Linear(width, width) for _ in features)
        for index, x in enumerate(features):
            self.register_buffer(f"content_{index}", x, persistent=False)

    def views(self) -> tuple[Nodes, Nodes]:
        """Vectors from identifiers and from content, users first."""
        behaviour = torch.cat(super().vectors())
        contents = torch.stack([self._content_view(index) for index in range(len(self.projections))])
        attention = torch.softmax(self.attention(contents), dim=0)
        shared = (attention * contents).sum(0)
        wanted = torch.stack([torch.sigmoid(layer(behaviour)) for layer in self.preferences])
        return behaviour, shared + (wanted * (contents - shared)).mean(0)

    def _content_view(self, index: int) -> Nodes:
        """One feature's vectors: gated by the items' identifiers [behaviour-guided purifier], then both graphs."""
        projected = self.projections[index](getattr(self, f"content_{index}"))
        items = self.items * torch.sigmoid(self.gates[index](projected))
        items = propagate(items, self.item_graphs[index], 1) - items
        nodes = torch.cat([torch.zeros_like(self.users), items])
        users = propagate(nodes, self.graph, 1)[: len(self.users)]
        return torch.cat([users, items])

    def vectors(self) -> Embeddings:
        behaviour, content = self.views()
        both = behaviour + content
        return Embeddings(both[: len(self.users)], both[len(self.users) :])

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        behaviour, content = self.views()
        return behaviour, content, behaviour + content

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = complete(batch)
        behaviour, content, both = tables
        first_item = len(self.users)
        users, items, negatives = (
            both[rows] for rows in (batch.users, batch.items + first_item, batch.negatives + first_item)
        )
        rank = preference(users, items, negatives)
        contrast = sum(
            (self._contrast(behaviour, content, rows) for rows in (batch.users, batch.items + first_item)),
            torch.zeros((), device=rank.device),
        )
        norm = sum((part.square().sum(-1).mean() / 2 for part in (users, items, negatives)), torch.zeros_like(rank))
        total = rank + self.mgcn.contrast_weight * contrast + self.mgcn.regularization * norm
        return {"loss": total, "bpr": rank, "contrast": contrast, "norm": norm}

    def _contrast(self, behaviour: Table, content: Table, rows: Tensor) -> Float[Tensor, ""]:
        """InfoNCE of the two views: a node's content vector is to find its own behaviour vector among the batch's."""
        distinct = torch.unique(rows)
        mine, theirs = (functional.normalize(x[distinct], dim=-1) for x in (content, behaviour))
        own = torch.arange(len(distinct), device=rows.device)
        return functional.cross_entropy(mine @ theirs.T / self.mgcn.contrast_temperature, own)
