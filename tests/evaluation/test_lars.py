"""LARS against closed forms, and against SGD where it is that."""

import pytest
import torch
from torch import nn

from vitlet.evaluation.lars import Lars


def _stepped(value: list, gradient: list, *, steps: int = 1, momentum: float = 0.9) -> torch.Tensor:
    parameter = nn.Parameter(torch.tensor(value))
    optimizer = Lars([parameter], lr=2.0, momentum=momentum, trust=0.001)
    for _ in range(steps):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach()


def test_the_first_step_has_the_length_of_the_tensor_whatever_the_gradient() -> None:
    # ‖w‖ = 5, so the step is 2 · 0.001 · 5 along the gradient's direction (0.6, 0.8).
    for scale in (1.0, 1e4, 1e-4):
        moved = _stepped([[3.0, 4.0]], [[0.6 * scale, 0.8 * scale]])
        assert torch.allclose(moved, torch.tensor([[3.0 - 0.006, 4.0 - 0.008]]), atol=1e-6)


def test_momentum_keeps_the_scaled_gradient() -> None:
    w, v = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for _ in range(3):
        v = 0.9 * v + 0.001 * w.norm() / gradient.norm() * gradient
        w = w - 2.0 * v
    assert torch.allclose(_stepped([[3.0, 4.0]], [[1.0, -2.0]], steps=3).double(), w, atol=1e-6)


def test_one_dimension_is_plain_sgd() -> None:
    ours = _stepped([3.0, 4.0], [0.1, 0.2], steps=3)
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    sgd = torch.optim.SGD([parameter], lr=2.0, momentum=0.9)
    for _ in range(3):
        parameter.grad = torch.tensor([0.1, 0.2])
        sgd.step()
    assert torch.allclose(ours, parameter.detach())


@pytest.mark.parametrize(("value", "gradient", "expected"), [(0.0, 1.0, -2.0), (3.0, 0.0, 3.0)])
def test_without_a_length_there_is_no_scaling(value: float, gradient: float, expected: float) -> None:
    assert _stepped([[value]], [[gradient]]).item() == expected


def test_a_tensor_without_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    Lars([parameter], lr=1.0).step()
    assert torch.equal(parameter.detach(), torch.ones(2, 2))
