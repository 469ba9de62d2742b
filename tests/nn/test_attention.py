"""Attention: the two kernels agree, the logits are what they are called, and timm's module computes the same."""

import itertools

import pytest
import torch
from timm.layers import Attention as TimmAttention
from torch import Tensor

from vitlet.nn import attention as module
from vitlet.nn.attention import Attention, attend, choose_kernel


def _module(heads: int = 4) -> Attention:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        return Attention(32, num_heads=heads).double()


def _tokens(count: int) -> Tensor:
    return torch.randn(2, count, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _naive(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """(result, logits) with a loop over images and heads."""
    width = x.shape[2] // attention.num_heads
    result, logits = torch.empty_like(x), []
    for b in range(len(x)):
        q, k, v = (x[b] @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1)
        for a in range(attention.num_heads):
            at = slice(a * width, (a + 1) * width)
            logits.append(q[:, at] @ k[:, at].T / width**0.5)
            result[b, :, at] = logits[-1].exp() / logits[-1].exp().sum(dim=1, keepdim=True) @ v[:, at]
    stacked = torch.stack(logits).unflatten(0, (len(x), attention.num_heads))
    return result @ attention.proj.weight.T + attention.proj.bias, stacked


@pytest.mark.parametrize("tokens", [7, 150])
def test_both_kernels_equal_the_naive_loop(tokens: int) -> None:
    attention, x = _module(), _tokens(tokens)
    result, logits = _naive(attention, x)
    torch.testing.assert_close(attention(x), result, rtol=1e-10, atol=1e-12)
    explicit, found = attention.forward_with_logits(x)
    torch.testing.assert_close(explicit, result, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 49).view(7, 7)])
def test_the_kernels_agree_where_a_cpu_would_choose_either(bias: Tensor | None) -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    explicit, fused = (attend(q, k, v, bias, kernel=kernel) for kernel in ("explicit", "fused"))
    torch.testing.assert_close(explicit, fused, rtol=1e-5, atol=1e-6)


def test_timms_module_gives_the_same_from_the_same_tensors() -> None:
    attention, x = _module(), _tokens(9)
    theirs = TimmAttention(32, num_heads=4, qkv_bias=True).double()
    theirs.load_state_dict(attention.state_dict())
    torch.testing.assert_close(attention(x), theirs(x), rtol=1e-10, atol=1e-12)


def test_the_number_of_heads_changes_the_result_of_the_same_tensors() -> None:
    few, many = _module(heads=2), _module(heads=8)
    many.load_state_dict(few.state_dict())
    assert (few(_tokens(5)) - many(_tokens(5))).abs().max() > 1e-3


def test_a_gpu_always_fuses_and_bf16_on_a_cpu_never_does() -> None:
    for low, onednn in itertools.product([True, False], repeat=2):
        options = {"low_precision": low, "onednn": onednn}
        assert choose_kernel(device="cuda", **options) == "fused"
        assert choose_kernel(device="cpu", **options) == ("explicit" if low or onednn else "fused")


@pytest.mark.parametrize("bias", ["none", "of all images", "of each image"])
def test_a_few_images_at_a_time_attend_as_all_at_once(bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 5, 4, 7, 8, generator=draw).unbind(0)
    shapes = {"none": None, "of all images": (4, 7, 7), "of each image": (5, 4, 7, 7)}
    shape = shapes[bias]
    added = None if shape is None else torch.randn(shape, generator=draw)
    whole, real, seen = attend(q, k, v, added, kernel="explicit"), module._explicit, list[int]()

    def noted(q: Tensor, *others: Tensor | None) -> Tensor:
        seen.append(len(q))
        return real(q, *others)

    monkeypatch.setattr(module, "_explicit", noted)
    monkeypatch.setattr(module, "_CACHE_BYTES", 2 * 4 * 7 * 7 * 4)
    torch.testing.assert_close(attend(q, k, v, added, kernel="explicit"), whole, rtol=1e-6, atol=1e-7)
    assert seen == [2, 2, 1]
    seen.clear()
    attend(q.requires_grad_(), k, v, added, kernel="explicit")
    assert seen == [5], "with a backward pass to follow the logits are kept anyway"


@pytest.mark.parametrize("option", [{"attn_drop": 0.1}, {"proj_drop": 0.1}, {"qk_norm": True}])
def test_options_that_are_not_implemented_are_not_ignored(option: dict) -> None:
    with pytest.raises(AssertionError, match=next(iter(option))):
        Attention(32, num_heads=4, **option)


def test_heads_that_do_not_divide_the_width_are_no_attention() -> None:
    with pytest.raises(AssertionError, match="a width of 64 for 5 heads"):
        Attention(64, num_heads=5)
