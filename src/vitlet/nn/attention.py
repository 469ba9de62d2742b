"""Multi-head self-attention with timm's parameter names, choosing per call how to compute itself.

Explicit attention (two matrix products and a softmax) and the fused kernel compute the same; which is faster depends
on where they run. On a CPU the fused kernel's bf16 backward is 2.5 to 6 times slower than the explicit form, while in
fp32 at 197 tokens it is about twice as fast (`docs/results/`); on a GPU fused is faster throughout. Explicit attention
is also the only one whose logits can be looked at, for distillation and analysis.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Below this many tokens the explicit product is as fast on a CPU in fp32 and needs no second kernel.
_FEW_TOKENS = 128


def choose_kernel(
    *, device: str, low_precision: bool, tokens: int, gradient: bool, onednn: bool
) -> Literal["explicit", "fused"]:
    """The faster of the two for one call.

    Args:
        device: `cpu`, `cuda` or `mps`.
        low_precision: Whether the products run in bf16 or fp16.
        tokens: T, of queries and keys alike.
        gradient: Whether a backward pass will follow.
        onednn: Whether fp32 products are routed to oneDNN, which slows the fused kernel's inner products.
    """
    if device != "cpu":
        return "fused"
    if low_precision:
        return "explicit" if gradient else "fused"
    return "explicit" if tokens <= _FEW_TOKENS or onednn else "fused"


class Attention(nn.Module):
    """Given to timm as `attn_layer`; the tensors are `qkv.{weight,bias}` and `proj.{weight,bias}`.

    Raises:
        AssertionError: for timm's options that plain ViTs do not use (dropout, query and key norms).
    """

    def __init__(self, dim: int, *, num_heads: int, qkv_bias: bool = True, proj_bias: bool = True, **inert: object):
        """`inert` are timm's other arguments; each must hold the value that means "off"."""
        super().__init__()
        in_use = {k: v for k, v in inert.items() if v and k != "norm_layer"}
        assert not in_use, f"attention options that vitlet's plain ViT does not have: {in_use}"
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Attend with the kernel that `choose_kernel` names."""
        q, k, v = self._heads(x)
        kernel = choose_kernel(
            device=x.device.type,
            low_precision=q.dtype in (torch.bfloat16, torch.float16),
            tokens=x.shape[1],
            gradient=torch.is_grad_enabled() and q.requires_grad,
            onednn=torch.get_float32_matmul_precision() != "highest",
        )
        if kernel == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = self.logits(q, k).softmax(dim=-1) @ v
        return self._merge(mixed)

    def forward_with_logits(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B A T T"]]:
        """The same result, and the scaled products of queries and keys before the softmax."""
        q, k, v = self._heads(x)
        logits = self.logits(q, k)
        return self._merge(logits.softmax(dim=-1) @ v), logits

    def logits(self, q: Float[Tensor, "B A T E"], k: Float[Tensor, "B A T E"]) -> Float[Tensor, "B A T T"]:
        """Scaled query-key products, q·kᵀ/√E."""
        return (q * self.scale) @ k.transpose(-2, -1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        return self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def _merge(self, mixed: Tensor) -> Tensor:
        return self.proj(mixed.transpose(1, 2).flatten(2))
