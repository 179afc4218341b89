"""The two frozen graphs and the propagation over them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainers.data import Modality, Neighbors, modality_shares

SOLVED = 1e-8
"""Residual at which a linear system of `smooth_items` counts as solved, relative to the right-hand side's length."""
ROUGHLY = 1e-4
"""The same for one round in float32, which can reach about 1e-6; two rounds are enough for `SOLVED`."""
MOST_ROUNDS, MOST_STEPS = 8, 200
"""Rounds of refinement, and steps of conjugate gradients per round; for noise 0.02, 26 steps reach `ROUGHLY` on any
graph."""
PAIRS_AT_ONCE = 65_536
"""Pairs whose cosines are computed at once, which bounds the memory for their vectors."""


@dataclass(frozen=True)
class Graph:
    """A constant sparse matrix with its transpose, for products with dense matrices.

    Held as the arguments of `embedding_bag`, which computes weighted sums of rows: on CPU it takes a third to a fifth
    of the time of torch's and SciPy's CSR products, and sums in a fixed order, so results do not vary with threads.
    """

    columns: Tensor
    offsets: Tensor
    weights: Tensor
    transposed: "Graph | None"

    @staticmethod
    def of(matrix: sp.csr_matrix, device: torch.device) -> "Graph":
        """The graph of a SciPy matrix, with float32 weights. A symmetric matrix is its own transpose."""
        symmetric = matrix.shape[0] == matrix.shape[1] and abs(matrix - matrix.T).nnz == 0
        return Graph._of(matrix, device, None if symmetric else Graph._of(matrix.T.tocsr(), device, None))

    @staticmethod
    def _of(matrix: sp.csr_matrix, device: torch.device, transposed: "Graph | None") -> "Graph":
        matrix = matrix.tocsr()
        matrix.sort_indices()
        return Graph(
            torch.from_numpy(matrix.indices.astype(np.int64)).to(device),
            torch.from_numpy(matrix.indptr.astype(np.int64)).to(device),
            torch.from_numpy(matrix.data.astype(np.float32)).to(device),
            transposed,
        )

    def product(self, x: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows dim"]:
        """This matrix · `x`, without gradients."""
        return functional.embedding_bag(
            self.columns,
            x,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights.to(x.dtype),
            include_last_offset=True,
        )

    def halves(self, count: int) -> tuple["Graph", "Graph"]:
        """The two blocks of a bipartite adjacency: the rows of the first `count` nodes, and the other rows."""
        edges = int(self.offsets[count])
        return (
            Graph(self.columns[:edges] - count, self.offsets[: count + 1], self.weights[:edges], None),
            Graph(self.columns[edges:], self.offsets[count:] - edges, self.weights[edges:], None),
        )

    def sum_of_powers(self, x: Float[Tensor, "n dim"], layers: int) -> Float[Tensor, "n dim"]:
        """(1 + A + … + A^layers) x by Horner's rule, without gradients."""
        total = x
        for _ in range(layers):
            total = self.product(total).add_(x)
        return total


class _SumOfPowers(torch.autograd.Function):
    """The gradient of (1 + A + … + A^L) x is the same polynomial of A^T applied to the output's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph.transposed or graph, layers
        return graph.sum_of_powers(x, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.graph.sum_of_powers(gradients[0].contiguous(), ctx.layers), None, None


def propagate(x: Float[Tensor, "n dim"], graph: Graph, layers: int) -> Float[Tensor, "n dim"]:
    """The sum of layers 0..L of light graph convolution: (1 + A + … + A^L) x.

    Source: LightGCN (arXiv 2002.02126) eq. (7-8), the sum in place of the mean, as CM3 does.
    """
    result: Tensor = _SumOfPowers.apply(x, graph, layers)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return result


def smooth_items(
    items: Float[Tensor, "items dim"], graph: Graph, users: int, noise: float
) -> Float[Tensor, "items dim"]:
    """M (M + noise)^-1 · items with M = NᵀN, N the normalised interactions: a Wiener filter on the graph.

    Each eigenvector of M is scaled by λ / (λ + noise): directions that many interactions support pass, directions that
    none supports are removed. An item without interactions keeps its vector. Every column's linear system is solved by
    conjugate gradients in float32, repeated on the residual until that, in float64, is below float32's rounding; this
    takes a sixth of the time of float64 throughout.

    Args:
        graph: the user-item adjacency, users first.
        noise: c > 0, in units of M's eigenvalues, which lie in [0, 1].
    Source: graph filtering as in GF-CF (arXiv 2108.07567), with Tikhonov's filter in place of the ideal one; iterative
        refinement as in Wilkinson, Rounding Errors in Algebraic Processes (1963).
    """
    to_users, to_items = graph.halves(users)

    def image(x: Tensor) -> Tensor:
        return to_items.product(to_users.product(x)).add_(x, alpha=noise)

    target = items.double()
    solution, residual = torch.zeros_like(target), target
    enough = target.square().sum(0) * SOLVED**2
    for _ in range(MOST_ROUNDS):
        solution += _solve_roughly(image, residual.float())
        residual = target - image(solution)
        if bool((residual.square().sum(0) <= enough).all()):
            break
    has_edges = to_items.offsets.diff() > 0
    return torch.where(has_edges[:, None], items - noise * solution.to(items.dtype), items)


def _solve_roughly(image: Callable[[Tensor], Tensor], target: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """x with `image`(x) ≈ `target`, column by column, for a symmetric positive definite `image`."""
    solution, residual, direction = torch.zeros_like(target), target.clone(), target.clone()
    energy = target.square().sum(0)
    enough, smallest = energy * ROUGHLY**2, torch.finfo(target.dtype).tiny
    for _ in range(MOST_STEPS):
        moved = image(direction)
        length = energy / (direction * moved).sum(0).clamp_min(smallest)
        solution.addcmul_(length, direction)
        residual.addcmul_(length, moved, value=-1)
        left = residual.square().sum(0)
        if bool((left <= enough).all()):
            break
        direction = torch.addcmul(residual, left / energy.clamp_min(smallest), direction)
        energy = left
    return solution


def user_item_adjacency(interactions: sp.csr_matrix) -> sp.csr_matrix:
    """D^-1/2 A D^-1/2 of the bipartite graph, (users + items)², users first; a node without edges has a zero row."""
    adjacency = sp.bmat([[None, interactions], [interactions.T, None]], format="csr", dtype=np.float64)
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    scale = sp.diags(np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0))
    return (scale @ adjacency @ scale).tocsr().astype(np.float32)


def item_item_adjacency(
    neighbors: Neighbors, features: Mapping[str, Modality], *, k: int, weights: Mapping[str, float] | None
) -> sp.csr_matrix:
    """Nearest neighbours by each modality, mixed: (items, items), every row sums to 1.

    By one modality, an item's row holds the item itself and its k - 1 nearest by cosine, with equal weights. The row
    mixes the modalities that the item has, their shares scaled to sum 1; without any it is the item itself.

    Source: CM3, item-item graph; FREEDOM (arXiv 2211.06924) eq. (1-3). Differs: row-normalised, per-item modalities.
    Raises: UserError: `weights` does not name exactly the features.
    """
    n = len(next(iter(features.values())).present) if features else 0
    shares = modality_shares(weights, features)
    mixed = sp.csr_matrix((n, n), dtype=np.float64)
    total = np.zeros(n)
    for name, feature in features.items():
        top = _nearest(neighbors, neighbors.cosine[name], n, k - 1) + sp.identity(n, format="csr")
        share = np.where(feature.present, shares[name], 0.0)
        mixed += sp.diags(share / np.asarray(top.sum(axis=1)).ravel()) @ top
        total += share
    scale = np.divide(1, total, out=np.zeros(n), where=total > 0)
    lonely = sp.diags((total == 0).astype(np.float64))
    return (sp.diags(scale) @ mixed + lonely).tocsr().astype(np.float32)


def _nearest(neighbors: Neighbors, cosine: NDArray[np.float32], n: int, k: int) -> sp.csr_matrix:
    """Ones at each item's k neighbours of largest cosine; ties go to the smaller item row."""
    both = np.flatnonzero(np.isfinite(cosine))  # pairs whose items both have the modality
    item = neighbors.item[both]
    order = both[np.lexsort((neighbors.neighbor[both], -cosine[both], item))]
    item = neighbors.item[order]
    place = np.arange(len(item)) - np.searchsorted(item, item)
    chosen = order[place < k]
    ones = np.ones(len(chosen))
    return sp.csr_matrix((ones, (neighbors.item[chosen], neighbors.neighbor[chosen])), shape=(n, n))


def exact_neighbors(features: Mapping[str, Modality], *, k: int, block: int = 1024) -> Neighbors:
    """The neighbours without a similarity table: the union of each modality's k nearest, by exact cosines.

    Memory: block × items.
    """
    unit = {
        name: f.matrix / np.maximum(np.linalg.norm(f.matrix, axis=1, keepdims=True), 1e-12)
        for name, f in features.items()
    }
    pairs = [_top_pairs(unit[name], feature.present, k, block) for name, feature in features.items()]
    n = len(next(iter(features.values())).present)
    keys = np.unique(np.concatenate(pairs))
    item, neighbor = np.divmod(keys, n)
    cosine = {}
    for name, feature in features.items():
        both = feature.present[item] & feature.present[neighbor]
        dots = np.zeros(len(item))
        for start in range(0, len(item), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            dots[part] = np.einsum("ij,ij->i", unit[name][item[part]], unit[name][neighbor[part]])
        cosine[name] = np.where(both, dots, np.nan).astype(np.float32)
    return Neighbors(item, neighbor, cosine)


def _top_pairs(unit: NDArray[np.float32], present: NDArray[np.bool_], k: int, block: int) -> NDArray[np.int64]:
    """item · n + neighbour, for each item that has the modality and its k nearest others that have it."""
    n, rows = len(unit), np.flatnonzero(present)
    k = min(k, len(rows) - 1)
    keys = [np.zeros(0, np.int64)]
    for start in range(0, len(rows) if k > 0 else 0, block):
        at = rows[start : start + block]
        cosine = unit[at] @ unit[rows].T
        cosine[np.arange(len(at)), np.arange(start, start + len(at))] = -np.inf
        top = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        keys.append((at[:, None] * n + rows[top]).ravel())
    return np.concatenate(keys)
