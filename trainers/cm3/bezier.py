"""Spherical Bézier fusion: any number of unit vectors → one unit vector on the same sphere.

Source: CM3 (arXiv 2508.01226), spherical Bézier fusion. Differs: any number of control points, and each item may lack
some of them.
"""

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALL_SINE = 1e-3
"""Below this sin θ, slerp's quotient has a larger float32 error than normalised linear interpolation."""


def slerp(
    a: Float[Tensor, "*batch dim"], b: Float[Tensor, "*batch dim"], position: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch dim"]:
    """Point at `position` (0 → a, 1 → b) on the great circle through unit vectors `a` and `b`.

    Where sin θ < 1e-3 (θ near 0 or π) it is the normalised linear interpolation; for exactly opposite vectors at
    position 0.5, where every direction would do, it is `a`. Values and gradients are finite everywhere.
    """
    cosine = (a * b).sum(-1, keepdim=True)
    tiny = cosine.detach().square() > 1 - SMALL_SINE**2
    # Both branches of `where` are differentiated, so the branch not taken must be harmless as well.
    theta = torch.arccos(torch.where(tiny, torch.zeros_like(cosine), cosine))
    arc = (torch.sin((1 - position) * theta) * a + torch.sin(position * theta) * b) / torch.sin(theta)
    chord = torch.where(tiny, (1 - position) * a + position * b, a)
    chord = torch.where(chord.detach().norm(dim=-1, keepdim=True) < SMALL_SINE, a, chord)
    # Near θ = π the quotient loses digits in float32: normalising corrects its length; its direction is within noise.
    return torch.nn.functional.normalize(torch.where(tiny, chord, arc), dim=-1)


def spherical_bezier(
    points: Float[Tensor, "modalities items dim"],
    present: Bool[Tensor, "modalities items"],
    positions: Float[Tensor, "steps items"] | None = None,
) -> Float[Tensor, "items dim"]:
    """De Casteljau's construction with slerp in place of linear interpolation.

    Args:
        points: unit vectors, the control points in order.
        present: which of them an item has; the others are left out of that item's curve.
        positions: λ in [0, 1], one row per step of the construction (M - 1 rows); None: 0.5.
    Returns: unit vectors; zero for an item without any modality.
    """
    count = present.sum(0)
    curve = list(_compact(points, present))
    for step in range(len(points) - 1):
        position = positions[step, :, None] if positions is not None else torch.full_like(curve[0][:, :1], 0.5)
        # An item with fewer points has reached its last level already and keeps its first point.
        unfinished = (count > step + 1)[:, None]
        curve = [torch.where(unfinished, slerp(a, b, position), a) for a, b in itertools.pairwise(curve)]
    return torch.where((count > 0)[:, None], curve[0], torch.zeros_like(curve[0]))


def _compact(
    points: Float[Tensor, "modalities items dim"], present: Bool[Tensor, "modalities items"]
) -> Float[Tensor, "modalities items dim"]:
    """Each item's present points first, in order, then copies of the first: unit vectors throughout."""
    if present.all():
        return points
    order = torch.argsort((~present).to(torch.int8), dim=0, stable=True)
    inside = torch.arange(len(points), device=points.device)[:, None] < present.sum(0)
    order = torch.where(inside, order, order[:1])
    return points.gather(0, order[:, :, None].expand(-1, -1, points.shape[-1]))
