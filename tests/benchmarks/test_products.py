"""Operations counted by hand, and a rate that is one."""

import pytest
import torch
from torch import nn

from vitlet.benchmarks.products import counted_flops, gemm_gflops
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig


def test_a_linear_layer_forward_and_backward() -> None:
    layer, x = nn.Linear(5, 7, bias=False), torch.ones(3, 5)
    forward = 2 * 3 * 5 * 7
    assert counted_flops(lambda: layer(x)) == forward
    assert counted_flops(lambda: layer(x).sum().backward()) == 2 * forward  # and the gradient of its weights
    assert counted_flops(lambda: layer(x.requires_grad_()).sum().backward()) == 3 * forward


def test_operations_of_vit_tiny_are_those_that_are_published() -> None:
    """2.51 GFLOP: twice the 1.26 billion multiplications and additions that DeiT-Tiny is quoted with."""
    encoder = Encoder(EncoderConfig()).eval()
    with torch.inference_mode():
        flops = counted_flops(lambda: encoder(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)))
    assert flops == pytest.approx(2.51e9, rel=0.01)


def test_the_rate_of_products_is_one() -> None:
    threads = torch.get_num_threads()
    assert gemm_gflops() > 0
    assert torch.get_num_threads() == threads
