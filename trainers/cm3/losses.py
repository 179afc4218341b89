"""The terms of CM3's loss. Each reads like its equation; the quadratic ones work on a Gram matrix, not on pairs.

For unit vectors ||a - b||² = 2 - 2 a·b, so exp(-t (||a - b||² - 2 + 2 s)) = exp(2t (a·b - s)).
Source: alignment and uniformity (arXiv 2005.10242) eq. (5-6), calibrated uniformity CM3 (arXiv 2508.01226).
"""

from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

BLOCK = 256
"""Rows of the Gram matrix computed at once, so that a block stays in cache from product to exponential to product."""


class ContentSimilarity:
    """s_ab = clamp(f_a · f_b, min_sim, max_sim); 1, i.e. no calibration, for pairs with an item without content.

    Indexed like the (n, n) tensor it represents, which need not be held as a whole: computing the blocks that are asked
    for takes half the products, and none of the memory traffic.

    Args:
        fused: unit vectors; a zero row is an item without content.
    """

    def __init__(self, fused: Float[Tensor, "n dim"], minimum: float, maximum: float) -> None:
        self.fused, self.minimum, self.maximum = fused, minimum, maximum
        present = fused.detach().any(-1)
        self.present = None if bool(present.all()) else present

    def __getitem__(self, at: tuple[slice, slice]) -> Float[Tensor, "rows columns"]:
        rows, columns = at
        cosine = (self.fused[rows] @ self.fused[columns].T).clamp_(self.minimum, self.maximum)
        if self.present is None:
            return cosine
        return torch.where(self.present[rows, None] & self.present[columns], cosine, 1.0)

    def padded(self, more: int) -> "ContentSimilarity":
        """The same with `more` rows of zeros at the end."""
        wider = copy(self)
        wider.fused = functional.pad(self.fused, (0, 0, 0, more))
        wider.present = None if self.present is None else functional.pad(self.present, (0, more))
        return wider

    def diagonal(self) -> Float[Tensor, " n"]:
        """s of each item with itself."""
        own = self.fused.square().sum(-1).clamp(self.minimum, self.maximum)
        return own if self.present is None else torch.where(self.present, own, 1.0)


def alignment(users: Float[Tensor, "batch dim"], items: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """mean ||u - i||² over the batch's pairs (user, chosen item)."""
    return (users - items).square().sum(-1).mean()


def uniformity(
    x: Float[Tensor, "n dim"],
    temperature: float = 2.0,
    counts: Int[Tensor, " n"] | None = None,
    precision: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """log mean_{a≠b} exp(-t ||x_a - x_b||²) over unit vectors.

    Args:
        x: unit vectors.
        temperature: t.
        counts: how often the batch has each row. A batch of 2,048 from a thousand users has each user about twice;
            distinct rows with counts give the same value and gradient for a fraction of the products.
        precision: of the matrix products (e.g. bfloat16); None: that of `x`, in which sums always are.
    Returns: 0 where the batch has no pair.
    """
    return calibrated_uniformity(x, None, temperature, counts, precision)


def calibrated_uniformity(
    x: Float[Tensor, "n dim"],
    similarity: Float[Tensor, "n n"] | ContentSimilarity | None,
    temperature: float = 2.0,
    counts: Int[Tensor, " n"] | None = None,
    precision: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """log mean_{a≠b} exp(-t (||x_a - x_b||² - 2 + 2 s_ab)): the push between a and b, weakened by their likeness.

    Args:
        x: unit vectors.
        similarity: s, symmetric; s = 1 everywhere (or None) gives plain uniformity. A tensor gets a gradient if it
            requires one; `ContentSimilarity` gets none.
        temperature, counts, precision: see `uniformity`.
    """
    if counts is None:
        counts = torch.ones(len(x), dtype=torch.int64, device=x.device)
    result: Tensor = _LogMeanExp.apply(x, similarity, counts, temperature, precision or x.dtype)  # type: ignore[no-untyped-call]
    return result


class _LogMeanExp(torch.autograd.Function):
    """Value and gradient in one sweep over blocks of the Gram matrix's upper triangle.

    With E_ab = c_a c_b exp(2t (x_a·x_b - s_ab)), zero on the diagonal, and Z its sum plus that of the equal pairs:
    value = log(Z / pairs), d/dx_a = 4t Σ_b E_ab x_b / Z, d/ds_ab = -2t E_ab / Z. Equal pairs (a row with itself, when
    its count exceeds 1) have x_a·x_a = 1: they enter Z and have no gradient but that of s_aa.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s: Tensor | ContentSimilarity | None, counts: Tensor, t: float, precision: torch.dtype
    ) -> Tensor:
        pairs = float(counts.sum()) * (float(counts.sum()) - 1)
        with_s = isinstance(s, Tensor) and s.requires_grad
        if pairs == 0:
            ctx.save_for_backward(torch.zeros_like(x), torch.zeros_like(s) if isinstance(s, Tensor) else None)
            return x.new_zeros(())
        n, c = len(x), counts.to(x.dtype)
        own = torch.exp(2 * t * (1 - (s.diagonal() if s is not None else torch.ones_like(c)))) * c * (c - 1)
        total, of_x, of_s = _sweep(*_padded(x.to(precision), s, c), t, with_s)
        total = total + own.sum()
        of_x = of_x[:n].mul_(4 * t / total)
        if of_s is not None:
            of_s = of_s[:n, :n].add(torch.diag(own)).mul_(-2 * t / total)
        ctx.save_for_backward(of_x, of_s)
        return torch.log(total / pairs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        of_x, of_s = ctx.saved_tensors
        (upstream,) = gradients
        return of_x * upstream, None if of_s is None else of_s * upstream, None, None, None


def _padded(x: Tensor, s: Tensor | ContentSimilarity | None, c: Tensor) -> tuple[Tensor, Any, Tensor]:
    """Padded to a multiple of BLOCK with rows of count 0, which add nothing.

    The number of distinct rows changes with every batch, and the matrix library compiles and keeps a kernel for each
    new shape; with whole blocks there are only a handful of shapes.
    """
    more = -len(x) % BLOCK
    if not more:
        return x, s, c
    if isinstance(s, Tensor):
        s = functional.pad(s, (0, more, 0, more))
    elif s is not None:
        s = s.padded(more)
    return functional.pad(x, (0, 0, 0, more)), s, functional.pad(c, (0, more))


def _sweep(
    x: Tensor, s: Tensor | ContentSimilarity | None, c: Tensor, t: float, with_s: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ E, Σ_b E_ab x_b (summed in c's precision) and, if `with_s`, E itself."""
    gradient = torch.zeros(x.shape, dtype=c.dtype, device=x.device)
    full = torch.zeros(len(x), len(x), dtype=c.dtype, device=x.device) if with_s else None
    total = c.new_zeros(())
    for start in range(0, len(x), BLOCK):
        rows, stop = slice(start, start + BLOCK), start + BLOCK
        e = _block(x, s, c, t, rows)
        square, rest = e[:, :BLOCK], e[:, BLOCK:]
        square.fill_diagonal_(0)
        total = total + square.sum() + 2 * rest.sum()
        if full is not None:
            full[rows, start:] = e
            full[stop:, rows] = rest.T
        e = e.to(x.dtype)
        gradient[rows] += e @ x[start:]
        gradient[stop:] += e[:, BLOCK:].T @ x[rows]
    return total, gradient, full


def _block(x: Tensor, s: Tensor | ContentSimilarity | None, c: Tensor, t: float, rows: slice) -> Tensor:
    """E for these rows and all columns from `rows.start` on."""
    gram = (x[rows] @ x[rows.start :].T).to(c.dtype)
    gram = gram.sub_(s[rows, rows.start :] if s is not None else 1.0)
    return gram.mul_(2 * t).exp_().mul_(c[rows, None]).mul_(c[rows.start :])
