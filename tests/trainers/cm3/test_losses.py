"""The Gram-matrix losses are the pair sums of the paper, in value and in gradient."""

from collections.abc import Callable

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch import Tensor
from torch.nn.functional import normalize

from trainers.cm3 import losses
from trainers.cm3.losses import ContentSimilarity, alignment, calibrated_uniformity, uniformity


def unit(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def pair_loop(x: Tensor, s: Tensor, t: float) -> Tensor:
    """The definition, one pair at a time."""
    terms = [
        torch.exp(-t * ((x[a] - x[b]).square().sum() - 2 + 2 * s[a, b]))
        for a in range(len(x))
        for b in range(len(x))
        if a != b
    ]
    return torch.log(torch.stack(terms).mean())


def likeness(n: int, seed: int = 1) -> Tensor:
    f = unit(n, 4, seed)
    return (f @ f.T).clamp(0, 0.8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize("block", [4, 7, 256])
def test_value_and_gradients_equal_the_float64_pair_loop(
    dtype: torch.dtype, t: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", block)
    x, s = unit(17, 6).requires_grad_(), likeness(17).requires_grad_()
    expected = pair_loop(x, s, t)
    expected_gradients = torch.autograd.grad(expected, [x, s])
    x_, s_ = x.detach().to(dtype).requires_grad_(), s.detach().to(dtype).requires_grad_()
    value = calibrated_uniformity(x_, s_, t)
    gradients = torch.autograd.grad(value, [x_, s_])
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    # The Gram form differentiates x_a·x_b, the loop ||x_a - x_b||²: equal on the sphere, i.e. along its tangent.
    along = x.detach()
    tangent = [g - (g * along).sum(-1, keepdim=True) * along for g in (gradients[0].double(), expected_gradients[0])]
    torch.testing.assert_close(tangent[0], tangent[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[1].double(), expected_gradients[1], rtol=1e-5, atol=1e-8)


def test_gradient_through_normalisation_equals_the_pair_loops() -> None:
    raw = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    s = likeness(12)
    ours = torch.autograd.grad(calibrated_uniformity(normalize(raw, dim=-1), s), raw)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(pair_loop(normalize(raw, dim=-1), s, 2.0), raw)[0])


def test_similarity_one_gives_plain_uniformity() -> None:
    x = unit(20, 8)
    plain, calibrated = uniformity(x), calibrated_uniformity(x, torch.ones(20, 20, dtype=torch.float64))
    torch.testing.assert_close(plain, calibrated)
    torch.testing.assert_close(plain, torch.pdist(x).square().mul(-2).exp().mean().log())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.booleans())
def test_counts_stand_for_repeated_rows(repeats: list[int], calibrated: bool) -> None:
    counts = torch.tensor(repeats)
    x = unit(len(repeats), 5).requires_grad_()
    s = likeness(len(repeats)) if calibrated else None
    rows = torch.repeat_interleave(torch.arange(len(repeats)), counts)
    spelled = calibrated_uniformity(x[rows], s[rows][:, rows] if s is not None else None)
    value = calibrated_uniformity(x, s, counts=counts)
    torch.testing.assert_close(value, spelled)
    ours, expected = (torch.autograd.grad(v, x)[0] for v in (value, spelled))
    along = x.detach()
    # A repeated row's copies push each other along the row itself only, which normalisation removes.
    torch.testing.assert_close(
        ours - (ours * along).sum(-1, keepdim=True) * along, expected - (expected * along).sum(-1, keepdim=True) * along
    )


@pytest.mark.parametrize("n", [0, 1])
def test_a_batch_without_a_pair_has_no_push(n: int) -> None:
    x = unit(n, 4).requires_grad_()
    value = uniformity(x)
    assert value == 0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_bfloat16_products_stay_within_a_percent() -> None:
    x, s = unit(300, 32, dtype=torch.float32), likeness(300).float()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    exact, quick = calibrated_uniformity(a, s), calibrated_uniformity(b, s, precision=torch.bfloat16)
    assert abs(exact - quick) < 0.01
    ours, theirs = torch.autograd.grad(quick, b)[0], torch.autograd.grad(exact, a)[0]
    assert (ours - theirs).norm() / theirs.norm() < 0.01


def test_alignment_is_the_mean_squared_distance() -> None:
    u, i = unit(9, 4), unit(9, 4, seed=1)
    torch.testing.assert_close(alignment(u, i), (2 - 2 * (u * i).sum(1)).mean())


def test_alike_items_push_each_other_less() -> None:
    x = unit(3, 4)
    s = torch.zeros(3, 3, dtype=torch.float64)
    s[0, 1] = s[1, 0] = 0.9
    free, bound = (torch.zeros(3, 3, dtype=torch.float64).requires_grad_(), s.requires_grad_())
    push = [torch.autograd.grad(calibrated_uniformity(x, m), m)[0][0, 1].abs() for m in (free, bound)]
    assert push[1] < push[0] * torch.exp(torch.tensor(-2 * 2.0 * 0.8))


def test_similarity_is_clamped_and_neutral_where_content_is_unknown() -> None:
    fused = unit(4, 3)
    fused[3] = 0
    similarity = ContentSimilarity(fused, 0.0, 0.7)
    s = similarity[:, :]
    torch.testing.assert_close(s[:3, :3], (fused[:3] @ fused[:3].T).clamp(0, 0.7))
    assert (s[3] == 1).all()
    assert (s[:, 3] == 1).all()
    torch.testing.assert_close(similarity.diagonal(), s.diagonal())


@pytest.mark.parametrize("unknown", [0, 2])
@pytest.mark.parametrize("block", [4, 7, 256])
def test_similarity_in_blocks_is_the_whole_matrix(unknown: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK", block)
    fused, x, counts = unit(17, 3), unit(17, 6).requires_grad_(), torch.arange(17) % 3 + 1
    fused[:unknown] = 0
    similarity = ContentSimilarity(fused, 0.0, 0.7)
    values = [calibrated_uniformity(x, s, counts=counts) for s in (similarity, similarity[:, :])]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in values))


def test_gradient_of_the_content_is_that_of_its_formula() -> None:
    raw, x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), unit(9, 6)
    fused = normalize(raw, dim=-1)
    values = (
        calibrated_uniformity(x, ContentSimilarity(fused, 0.0, 0.7)[:, :]),
        pair_loop(x, (fused @ fused.T).clamp(0, 0.7), 2.0),
    )
    torch.testing.assert_close(*(torch.autograd.grad(value, raw, retain_graph=True)[0] for value in values))


@pytest.mark.parametrize("function", [alignment])
def test_mismatched_shapes_are_refused_not_broadcast(function: Callable[..., Tensor]) -> None:
    checked = jaxtyped(typechecker=beartype)(getattr(function, "__wrapped__", function))
    with pytest.raises(Exception, match="type"):
        checked(unit(4, 3), unit(1, 3))
