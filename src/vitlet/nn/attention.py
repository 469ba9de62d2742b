"""Multi-head self-attention with timm's parameter names and a kernel chosen per call.

Explicit attention (two matrix products and a softmax) and the fused kernel compute the same result; which is faster
depends on the hardware (`vitlet bench attention`). On a CPU the fused kernel is faster in fp32: slightly at 17 tokens,
more than twice at 197. In bf16 the explicit form is faster: its backward pass several times, and inference up to 1.6
times, a few images at a time so that their logits stay in the cache. On a GPU the fused kernel is always faster. Only
explicit attention exposes its logits, which distillation and analysis need.

With `relative_grid` this is the attention of BEiT (Bao et al. 2022) as in timm's `Beit`: a learned bias on the logits
for each offset between two patches, and biases for queries and values but not for keys.
"""

import itertools
from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlet.nn.kernels import is_routed_to_onednn

Kernel = Literal["explicit", "fused"]
_CACHE_BYTES = 2 * 2**20
"""Bytes of logits computed at a time: a core's share of the L2 and L3 caches; half or twice as many cost little."""


def choose_kernel(*, device: str, low_precision: bool, onednn: bool) -> Kernel:
    """Return the faster kernel for one call.

    Args:
        device: `cpu`, `cuda` or `mps`.
        low_precision: Whether the products run in bf16 or fp16.
        onednn: Whether fp32 products are routed to oneDNN, which slows the fused kernel's inner products.
    """
    return "explicit" if device == "cpu" and (low_precision or onednn) else "fused"


class Attention(nn.Module):
    """Self-attention passed to timm as `attn_layer`; the tensors are `qkv.{weight,bias}` and `proj.{weight,bias}`.

    With relative positions, `q_bias`, `v_bias` and `relative_position_bias_table` replace `qkv.bias`.

    Raises:
        AssertionError: for timm options that plain ViTs do not use (dropout, query and key norms), or a width that is
            not divisible by the number of heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        relative_grid: int | None = None,
        **inert: object,
    ):
        """`relative_grid` is the side of the patch grid; `inert` collects timm's other arguments, which must be off."""
        super().__init__()
        in_use = {k: v for k, v in inert.items() if v and k != "norm_layer"}
        assert not in_use, f"attention options that vitlet's plain ViT does not have: {in_use}"
        assert dim % num_heads == 0, f"a width of {dim} for {num_heads} heads"
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias and relative_grid is None)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.relative_grid = relative_grid
        if relative_grid is not None:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
            offsets = (2 * relative_grid - 1) ** 2 + 3
            self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, num_heads))
            self.register_buffer("_offsets", relative_offsets(relative_grid), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        places: Int[Tensor, "B T"] | None = None,
        *,
        using: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend with the kernel that `choose_kernel` picks.

        Args:
            x: Tokens.
            places: Index of each token in the whole image, the class token being 0; None: all tokens in order. Used
                only with relative positions.
            using: Replaces the attention product where positions are handled elsewhere: maps queries, keys and values
                (B A T E) to the mixed values (B A T E).
        """
        q, k, v = self._heads(x)
        if using is not None:
            return self._merge(using(q, k, v))
        kernel = choose_kernel(
            device=x.device.type,
            low_precision=q.dtype in (torch.bfloat16, torch.float16),
            onednn=is_routed_to_onednn(),
        )
        return self._merge(attend(q, k, v, self._bias(places), kernel=kernel))

    def forward_with_logits(
        self, x: Float[Tensor, "B T D"], places: Int[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B A T T"]]:
        """Return the same result, and the logits that enter the softmax."""
        q, k, v = self._heads(x)
        logits = scaled_logits(q, k, self._bias(places))
        return self._merge(logits.softmax(dim=-1) @ v), logits

    def logits(self, x: Float[Tensor, "B T D"], places: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B A T T"]:
        """Return only the logits that enter the softmax, q·kᵀ/√E (+ bias), without computing values."""
        width = 2 * x.shape[-1]
        bias = self._qkv_bias()
        q, k = self._split(F.linear(x, self.qkv.weight[:width], None if bias is None else bias[:width]), parts=2)
        return scaled_logits(q, k, self._bias(places))

    def _bias(self, places: Tensor | None) -> Float[Tensor, "... A T T"] | None:
        if self.relative_grid is None:
            return None
        offsets = cast(Tensor, self._offsets)
        if places is not None:
            offsets = offsets[places[:, :, None], places[:, None, :]]
        return self.relative_position_bias_table[offsets].movedim(-1, -3)

    def _qkv_bias(self) -> Tensor | None:
        if self.relative_grid is None:
            return self.qkv.bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._split(F.linear(x, self.qkv.weight, self._qkv_bias()), parts=3)

    def _split(self, x: Tensor, *, parts: int) -> tuple[Tensor, ...]:
        # Not one permutation of a fifth dimension: OpenVINO takes the transposition of each part into its attention.
        return tuple(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1))

    def _merge(self, mixed: Tensor) -> Tensor:
        return self.proj(mixed.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, kernel: Kernel) -> Tensor:
    """softmax(q·kᵀ/√E + bias)·v for tensors of shape (B, A, T, E)."""
    if kernel == "fused":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    size = _images_in_cache(q)
    if size >= len(q):
        return _explicit(q, k, v, bias)
    parts = [x.split(size) for x in (q, k, v)]
    biases = bias.split(size) if bias is not None and bias.dim() == 4 else itertools.repeat(bias)
    return torch.cat([_explicit(*part) for part in zip(*parts, biases, strict=False)])


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return scaled_logits(q, k, bias).softmax(dim=-1) @ v


def _images_in_cache(q: Tensor) -> int:
    """Number of images to attend in at a time; all of them if logits are kept for a backward pass."""
    keeps = torch.is_grad_enabled() and q.requires_grad
    if keeps or q.device.type != "cpu" or torch.compiler.is_compiling():
        return len(q)
    _, heads, tokens, _ = q.shape
    return max(1, _CACHE_BYTES // (heads * tokens**2 * q.element_size()))


def scaled_logits(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits q·kᵀ/√E (+ bias) of (B, A, T, E), the input of the softmax: (B, A, T, T)."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return logits if bias is None else logits + bias


def relative_offsets(grid: int) -> Int[Tensor, "T T"]:
    """Row of the bias table for each (query, key) pair of tokens, numbered as in timm's `Beit`.

    Two patches have row (row offset + g − 1)·(2g − 1) + (column offset + g − 1); the last three are class to patch,
    patch to class and class to class.
    """
    place = torch.arange(grid * grid)
    rows, columns = place // grid, place % grid
    down = rows[:, None] - rows[None, :] + grid - 1
    right = columns[:, None] - columns[None, :] + grid - 1
    last = (2 * grid - 1) ** 2 + 2
    offsets = torch.full((grid * grid + 1, grid * grid + 1), last)
    offsets[1:, 1:] = down * (2 * grid - 1) + right
    offsets[0, 1:] = last - 2
    offsets[1:, 0] = last - 1
    return offsets
