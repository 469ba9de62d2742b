"""An encoder's blocks on large images: windowed attention, except in a few global blocks.

Paper: Li et al. 2022 (ViTDet), with the decomposed relative positions of Li et al. 2022 (MViTv2): a table for rows and
one for columns, multiplied with the query, starting at zero.

There is no class token. With every block global and all tables zero, the result equals that of the plain ViT without
one. The tables live here and not in the encoder, so that timm can still open the encoder's tensors.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitlet.nn.attention import Attention
from vitlet.nn.encoder import Encoder, run_block


class RelativePositions(nn.Module):
    """Attention with a bias that depends on the query and its offset to the key, separately for rows and columns."""

    def __init__(self, side: int, *, head_width: int) -> None:
        """`side`, in patches, is that of the square within which tokens attend; both tables start at zero."""
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * side - 1, head_width))
        self.columns = nn.Parameter(torch.zeros(2 * side - 1, head_width))
        place = torch.arange(side)
        self.register_buffer("_offsets", place[:, None] - place[None, :] + side - 1, persistent=False)
        which = torch.eye(side)
        square = (which[:, None].expand(side, side, side), which[None].expand(side, side, side))
        self.register_buffer("_places", torch.cat(square, dim=-1).flatten(0, 1), persistent=False)

    def forward(
        self, q: Float[Tensor, "B A T E"], k: Float[Tensor, "B A T E"], v: Float[Tensor, "B A T E"]
    ) -> Float[Tensor, "B A T E"]:
        """softmax(q·kᵀ/√E + q·R(row offset) + q·R(column offset))·v; the query in the bias is not scaled.

        The bias is computed within the product of queries and keys by extending both: queries by their scores for each
        row and column, keys by a one-hot code of their row and column. So no matrix of all pairs is ever stored, and a
        training step takes 0.6 of the time (16 windows of 14 × 14 patches, one core).
        """
        offsets = cast(Tensor, self._offsets)
        side, width = offsets.shape[0], q.shape[-1]
        square = q.unflatten(2, (side, side))
        down = torch.einsum("bayxe,yke->bayxk", square, self.rows[offsets].to(q.dtype))
        right = torch.einsum("bayxe,xke->bayxk", square, self.columns[offsets].to(q.dtype))
        queries = torch.cat([square * width**-0.5, down, right], dim=-1).flatten(2, 3)
        keys = torch.cat([k, cast(Tensor, self._places).to(k.dtype).expand(*k.shape[:2], -1, -1)], dim=-1)
        mixed = F.scaled_dot_product_attention(queries, keys, F.pad(v, (0, 2 * side)), scale=1.0)
        return mixed[..., :width]


class WindowedBlocks(nn.Module):
    """Patches to one feature map; the encoder is passed with each call, since it is not a submodule."""

    def __init__(
        self, *, grid: int, depth: int, head_width: int, window: int, global_blocks: Sequence[int], recompute: bool
    ) -> None:
        """Create what the encoder's blocks need besides their own tensors.

        Args:
            grid: Patches along a side of the image.
            depth: Blocks of the encoder.
            head_width: E.
            window: Side of a window in patches; a grid that is not a multiple is padded with zeros.
            global_blocks: Blocks, counted from 0, in which all patches attend to each other.
            recompute: Keep only each block's input and recompute the rest in the backward pass: less memory, more
                time.
        """
        super().__init__()
        self.grid, self.window, self.recompute = grid, min(window, grid), recompute
        self.global_blocks = frozenset(global_blocks)
        sides = [grid if i in self.global_blocks else self.window for i in range(depth)]
        self.relative = nn.ModuleList(RelativePositions(side, head_width=head_width) for side in sides)

    def forward(
        self,
        encoder: Encoder,
        patches: Float[Tensor, "B N D"],
        *,
        survival: Float[Tensor, "P B"] | None = None,
    ) -> Float[Tensor, "B D G G"]:
        """Apply positions, blocks and the final norm, if the encoder has one, to all patches of images, embedded as by
        `Encoder.embed`; `survival` as for `Encoder.encode`.
        """
        position = encoder.vit.pos_embed
        assert position is not None
        x = patches + position[:, 1:]
        assert x.shape[1] == self.grid**2, f"{x.shape[1]} patches for tables of {self.grid}²"
        for i, block in enumerate(encoder.blocks):
            factors = None if survival is None else survival[2 * i : 2 * i + 2, :, None, None]
            mix: Callable[[Tensor], Tensor] = partial(cast(Attention, block.attn), using=self.relative[i])
            if i not in self.global_blocks:
                mix = partial(in_windows, mix, side=self.window)
            run = partial(run_block, block, survival=factors, mix=mix)
            if self.recompute and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(run, x, use_reentrant=False, preserve_rng_state=False))
            else:
                x = run(x)
        return encoder.vit.norm(x).transpose(1, 2).unflatten(2, (self.grid, self.grid))


def in_windows(mix: Callable[[Tensor], Tensor], tokens: Float[Tensor, "B N D"], *, side: int) -> Float[Tensor, "B N D"]:
    """Apply `mix` within `side` × `side` windows of a square grid of patches, zero-padded to full windows."""
    grid = math.isqrt(tokens.shape[1])
    count = -(-grid // side)
    pad = count * side - grid
    square = F.pad(tokens.unflatten(1, (grid, grid)), (0, 0, 0, pad, 0, pad))
    tiles = square.unflatten(2, (count, side)).unflatten(1, (count, side)).transpose(2, 3)  # B c c s s D
    mixed = mix(tiles.reshape(-1, side * side, tokens.shape[2]))
    tiles = mixed.view(-1, count, count, side, side, tokens.shape[2]).transpose(2, 3)
    square = tiles.reshape(-1, count * side, count * side, tokens.shape[2])
    return square[:, :grid, :grid].flatten(1, 2)
