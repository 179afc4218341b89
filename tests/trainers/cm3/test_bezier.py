"""Spherical Bézier fusion stays on the sphere, for any number of modalities and any two directions."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainers.cm3.bezier import slerp, spherical_bezier


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def all_present(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("modalities", [1, 2, 3, 4, 5])
def test_fused_vectors_have_unit_length(modalities: int) -> None:
    points = unit(modalities, 50, 16)
    positions = torch.rand(modalities - 1, 50)
    for where in (None, positions):
        fused = spherical_bezier(points, all_present(points), where)
        torch.testing.assert_close(fused.norm(dim=-1), torch.ones(50))


def test_one_modality_is_returned_as_it_is() -> None:
    points = unit(1, 20, 8)
    assert torch.equal(spherical_bezier(points, all_present(points)), points[0])


def test_two_modalities_are_slerp_in_its_closed_form() -> None:
    points, positions = unit(2, 30, 8, dtype=torch.float64), torch.rand(1, 30, dtype=torch.float64)
    a, b, x = points[0].numpy(), points[1].numpy(), positions[0].numpy()[:, None]
    theta = np.arccos((a * b).sum(1, keepdims=True))
    expected = (np.sin((1 - x) * theta) * a + np.sin(x * theta) * b) / np.sin(theta)
    fused = spherical_bezier(points, all_present(points), positions)
    np.testing.assert_allclose(fused.numpy(), expected, rtol=1e-12)


def test_three_modalities_follow_de_casteljau() -> None:
    points, at = unit(3, 10, 8, dtype=torch.float64), torch.rand(2, 10, dtype=torch.float64)
    first = slerp(points[0], points[1], at[0][:, None]), slerp(points[1], points[2], at[0][:, None])
    expected = slerp(*first, at[1][:, None])
    torch.testing.assert_close(spherical_bezier(points, all_present(points), at), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-5, 1e-4, 1e-3, 2e-3, np.pi / 2])
@pytest.mark.parametrize("from_pi", [False, True])
def test_near_equal_and_near_opposite_vectors_give_unit_vectors_and_finite_gradients(
    dtype: torch.dtype, angle: float, from_pi: bool
) -> None:
    angle = np.pi - angle if from_pi else angle
    a = torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    b = torch.tensor([[np.cos(angle), np.sin(angle), 0.0]], dtype=dtype, requires_grad=True)
    for position in (0.0, 1e-6, 0.3, 0.5, 1.0):
        result = slerp(a, b, torch.tensor([[position]], dtype=dtype))
        gradients = torch.autograd.grad(result.sum(), [a, b])
        torch.testing.assert_close(result.norm(dim=-1), torch.ones(1, dtype=dtype))
        assert all(torch.isfinite(g).all() for g in gradients)


def test_an_items_missing_modality_is_left_out_of_its_curve_alone() -> None:
    points, positions = unit(4, 3, 8), torch.rand(3, 3)
    present = torch.tensor([[True, True, False], [True, False, True], [True, True, False], [True, False, False]])
    fused = spherical_bezier(points, present, positions)
    full = spherical_bezier(points, all_present(points), positions)
    two = spherical_bezier(points[[0, 2]], all_present(points[:2]), positions[:1])
    torch.testing.assert_close(fused[0], full[0])
    torch.testing.assert_close(fused[1], two[1])
    torch.testing.assert_close(fused[2], points[1, 2])


def test_an_item_without_any_modality_gives_zero_and_no_nan_gradient() -> None:
    points = torch.zeros(2, 2, 4)
    points[:, 1] = unit(2, 4)
    points.requires_grad_()
    fused = spherical_bezier(points, torch.tensor([[False, True], [False, True]]))
    assert torch.equal(fused[0], torch.zeros(4))
    assert torch.isfinite(torch.autograd.grad(fused.sum(), points)[0]).all()
