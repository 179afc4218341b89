"""The training race's peers: CM3 with plain autograd, over a Gram matrix or over the list of a batch's pairs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.data import Dataset
from trainers.graphs import item_item_adjacency, user_item_adjacency


def csr(matrix: Any) -> Tensor:
    """A SciPy CSR matrix as torch's sparse CSR tensor."""
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    return torch.sparse_csr_tensor(rows, columns, torch.from_numpy(matrix.data), size=matrix.shape)


class Plain(nn.Module):
    """The paper's model at L = 3, float32: whole features, torch.sparse products, autograd throughout."""

    def __init__(self, dataset: Dataset, dim: int, layers: int, gamma: float, pair_list: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.gamma, self.pair_list = layers, gamma, pair_list
        features = dataset.features
        self.matrices = [torch.from_numpy(f.matrix) for f in features.values()]
        widths = [x.shape[1] for x in self.matrices]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(w, 4 * dim), nn.LeakyReLU(), nn.Linear(4 * dim, dim, bias=False)) for w in widths
        )
        self.fusion = nn.ModuleList(nn.Linear(w, dim) for w in widths)
        n = len(dataset.users)
        self.users = nn.ParameterList(nn.init.xavier_normal_(torch.empty(n, dim)) for _ in range(len(widths) + 1))
        self.share = nn.Parameter(nn.init.xavier_normal_(torch.empty(n, len(widths) + 1)))
        self.user_item = csr(user_item_adjacency(dataset.matrix("train")))
        assert dataset.neighbors is not None
        self.item_item = csr(item_item_adjacency(dataset.neighbors, features, k=10, weights=None))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit = functional.normalize
        points = [unit(layer(x)) for layer, x in zip(self.fusion, self.matrices, strict=True)]
        theta = torch.arccos((points[0] * points[1]).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6))
        fused = torch.sin((1 - positions) * theta) * points[0] + torch.sin(positions * theta) * points[1]
        fused = fused / torch.sin(theta)
        blocks = [unit(layer(x)) for layer, x in zip(self.blocks, self.matrices, strict=True)]
        items = torch.cat([*blocks, fused], dim=1)
        users = torch.cat([unit(table) for table in self.users], dim=1)
        layer = total = torch.cat([users, items])
        for _ in range(self.layers):
            layer = self.user_item @ layer
            total = total + layer
        users, items = total[: len(users)], total[len(users) :]
        share = torch.softmax(self.share, dim=1)[:, :, None]
        users = (users.view(len(users), share.shape[1], -1) * share).flatten(1)
        return users, items + self.item_item @ items, fused

    def loss(self, user: Tensor, item: Tensor, negative: Tensor, positions: Tensor) -> Tensor:
        users, items, fused = self(positions)
        users, items = functional.normalize(users), functional.normalize(items)
        u, i, n = users[user], items[item], items[negative]
        f = fused[negative].detach()
        push = self.pairs if self.pair_list else self.gram
        return (u - i).square().sum(1).mean() + self.gamma / 2 * (push(u, None) + push(n, f))

    @staticmethod
    def gram(x: Tensor, f: Tensor | None) -> Tensor:
        s = 1.0 if f is None else (f @ f.T).clamp(0, 1)
        e = torch.exp(4 * (x @ x.T - s))
        off = ~torch.eye(len(x), dtype=torch.bool)
        return e[off].mean().log()

    @staticmethod
    def pairs(x: Tensor, f: Tensor | None) -> Tensor:
        if f is None:
            return torch.exp(-2 * torch.pdist(x).square()).mean().log()
        a, b = torch.triu_indices(len(x), len(x), 1)
        s = (f[a] * f[b]).sum(1).clamp(0, 1)
        return torch.exp(-2 * ((x[a] - x[b]).square().sum(1) - 2 + 2 * s)).mean().log()
