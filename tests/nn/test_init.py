"""Initial weights: the distributions of the papers, from a seed and nothing else."""

import pytest
import torch
from torch import nn

from vitlet.nn.init import init_timm, init_xavier, seeded, xavier_patch_embedding


def test_a_block_is_decided_by_its_key_and_the_global_generator_is_untouched() -> None:
    state = torch.get_rng_state()
    with seeded(5):
        first = torch.randn(3)
    torch.manual_seed(99)
    with seeded(5):
        second = torch.randn(3)
    with seeded(6):
        other = torch.randn(3)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.set_rng_state(state)


def test_timms_linears_are_truncated_normal() -> None:
    linear = nn.Linear(400, 500)
    with seeded(0):
        init_timm(linear)
    assert float(linear.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any()


def test_maes_linears_are_xavier_uniform() -> None:
    linear = nn.Linear(400, 500)
    with seeded(0):
        init_xavier(linear)
    bound = (6 / 900) ** 0.5
    assert float(linear.weight.detach().abs().max()) == pytest.approx(bound, rel=0.001)
    assert float(linear.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not linear.bias.any()


def test_the_patch_embedding_is_seen_as_a_matrix() -> None:
    convolution = nn.Conv2d(3, 192, 16, stride=16)
    with seeded(0):
        xavier_patch_embedding(convolution)
    assert float(convolution.weight.detach().abs().max()) == pytest.approx((6 / (768 + 192)) ** 0.5, rel=0.001)


def test_other_layers_are_left_alone() -> None:
    norm = nn.LayerNorm(4)
    init_timm(norm)
    init_xavier(norm)
    assert torch.equal(norm.weight, torch.ones(4))
