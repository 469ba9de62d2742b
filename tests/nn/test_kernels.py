"""Routing of fp32 products: kept only where the precision is kept, and never left behind."""

import pytest
import torch

from vitlet.nn.kernels import is_routed_to_onednn, keeps_fp32, onednn_is_exact, routed_to_onednn


def test_a_plain_product_has_fp32_error_and_lower_precision_is_noticed() -> None:
    assert keeps_fp32(torch.matmul)
    assert not keeps_fp32(lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    assert not keeps_fp32(lambda a, b: a.half().float() @ b.half().float())  # TF32 has fp16's mantissa


def test_the_setting_ends_with_the_block_also_after_an_error() -> None:
    assert not is_routed_to_onednn()
    with routed_to_onednn():
        assert is_routed_to_onednn()
    with pytest.raises(KeyError), routed_to_onednn():
        raise KeyError
    assert not is_routed_to_onednn()
    with routed_to_onednn(enabled=False):
        assert not is_routed_to_onednn()


def test_an_exact_route_changes_no_product_by_more_than_rounding() -> None:
    a, b = (torch.randn(300, 300, generator=torch.Generator().manual_seed(i)) for i in range(2))
    with routed_to_onednn(enabled=onednn_is_exact()):
        routed = a @ b
    torch.testing.assert_close(routed, a @ b, rtol=1e-4, atol=1e-4)
    assert not is_routed_to_onednn()
