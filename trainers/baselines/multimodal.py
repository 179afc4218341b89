"""Recommenders from identifiers and features: VBPR, FREEDOM, BM3. An absent feature counts as zero."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from schemas.baselines import BM3Config, FREEDOMConfig, VBPRConfig
from trainers.baselines.collaborative import BPR, LightGCN, complete, preference
from trainers.data import Dataset
from trainers.fit import Batch, Tables, torch_device
from trainers.graphs import Graph, exact_neighbors, item_item_adjacency, propagate, user_item_adjacency
from trainers.scores import Embeddings


def unit_features(dataset: Dataset) -> list[Tensor]:
    """The features' matrices with L2-normalised rows, so that their scales do not matter."""
    return [functional.normalize(torch.from_numpy(f.matrix), dim=-1) for f in dataset.features.values()]


class VBPR(BPR):
    """Matrix factorisation; a second half of each item's vector is a projection of its features.

    Source: He and McAuley, arXiv 1510.01784. Differs: without the bias terms; features are L2-normalised.
    """

    name = "vbpr"

    def __init__(self, dataset: Dataset, config: VBPRConfig) -> None:
        super().__init__(dataset, config)
        self.register_buffer("content", torch.cat(unit_features(dataset), dim=1), persistent=False)
        self.content: Tensor
        self.tastes = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(dataset.users), config.dim)))
        self.projection = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.content.shape[1], config.dim)))

    def vectors(self) -> Embeddings:
        return Embeddings(
            torch.cat([self.users, self.tastes], dim=1), torch.cat([self.items, self.content @ self.projection], dim=1)
        )


class FREEDOM(LightGCN):
    """LightGCN on a graph whose edges are dropped by degree, plus convolution over neighbours by content.

    Source: Zhou and Shen, arXiv 2211.06924. Differs: the item graph is CM3's, row-normalised.
    """

    name = "freedom"

    def __init__(self, dataset: Dataset, config: FREEDOMConfig) -> None:
        super().__init__(dataset, config)
        self.freedom = config
        self.interactions = dataset.matrix("train")
        self.whole = self.graph
        neighbors = dataset.neighbors or exact_neighbors(dataset.features, k=config.neighbors - 1)
        items = item_item_adjacency(neighbors, dataset.features, k=config.neighbors, weights=config.modality_weights)
        self.item_graph = Graph.of(items, torch_device(config.device))
        self.projections = nn.ModuleList(nn.Linear(x.shape[1], config.dim) for x in unit_features(dataset))
        for index, x in enumerate(unit_features(dataset)):
            self.register_buffer(f"content_{index}", x, persistent=False)

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Keep a share of the edges, drawn without replacement, weighted 1 / sqrt(user's degree · item's degree)."""
        edges = self.interactions.tocoo()
        user, item = np.asarray(self.interactions.sum(1)).ravel(), np.asarray(self.interactions.sum(0)).ravel()
        weight = 1 / np.sqrt(user[edges.row] * item[edges.col])
        kept = rng.choice(
            edges.nnz, max(1, round(edges.nnz * (1 - self.freedom.edge_dropout))), False, weight / weight.sum()
        )
        ones = np.ones(len(kept), np.float32)
        pruned = sp.csr_matrix((ones, (edges.row[kept], edges.col[kept])), shape=edges.shape)
        self.graph = Graph.of(user_item_adjacency(pruned), self.users.device)

    def vectors(self) -> Embeddings:
        users, items = super().vectors()
        near: Tensor = self.items
        for _ in range(self.freedom.item_layers):
            near = propagate(near, self.item_graph, 1) - near
        return Embeddings(users, items + near)

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(self.vectors())

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = complete(batch)
        users, items = tables
        chosen = users[batch.users]
        rank = preference(chosen, items[batch.items], items[batch.negatives])
        content = torch.zeros((), device=rank.device)
        for index, projection in enumerate(self.projections):
            x = getattr(self, f"content_{index}")
            content = content + preference(chosen, projection(x[batch.items]), projection(x[batch.negatives]))
        return {"loss": rank + self.freedom.content_weight * content, "bpr": rank, "content": content}

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Vectors over the whole graph, without dropped edges."""
        pruned, self.graph = self.graph, self.whole
        result = self.vectors()
        self.graph = pruned
        return result


class BM3(LightGCN):
    """Each view of a pair predicts the detached vector of another view, with dropout; no negatives.

    Source: Zhou et al., arXiv 2207.05969.
    """

    name = "bm3"

    def __init__(self, dataset: Dataset, config: BM3Config) -> None:
        super().__init__(dataset, config)
        self.bm3 = config
        self.predictor = nn.Linear(config.dim, config.dim)
        self.projections = nn.ModuleList(nn.Linear(x.shape[1], config.dim) for x in unit_features(dataset))
        for index, x in enumerate(unit_features(dataset)):
            self.register_buffer(f"content_{index}", x, persistent=False)

    def vectors(self) -> Embeddings:
        users, items = super().vectors()
        return Embeddings(users, items + self.items)

    @override
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(self.vectors())

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        users, items = tables
        user, item = users[batch.users], items[batch.items]
        user_target, item_target = self._target(user, rng), self._target(item, rng)
        predicted_user, predicted_item = self.predictor(user), self.predictor(item)
        rank = _distance(predicted_user, item_target) + _distance(predicted_item, user_target)
        content = torch.zeros((), device=rank.device)
        for index, projection in enumerate(self.projections):
            view = projection(getattr(self, f"content_{index}")[batch.items])
            predicted, target = self.predictor(view), self._target(view, rng)
            content = content + _distance(predicted, item_target) + _distance(predicted, target)
        norm = users[:].square().mean() + items[:].square().mean()
        total = rank + self.bm3.content_weight * content + self.bm3.regularization * norm
        return {"loss": total, "bootstrap": rank, "content": content}

    def _target(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        kept = torch.from_numpy(rng.random(x.shape, dtype=np.float32) >= self.bm3.dropout).to(x.device)
        return x.detach() * kept / (1 - self.bm3.dropout)

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        users, items = self.vectors()
        return Embeddings(self.predictor(users), self.predictor(items))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(a, b, dim=-1).mean()
