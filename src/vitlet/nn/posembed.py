"""Position embeddings of a square grid: the fixed sin-cos table, and resizing of any table.

Paper: Vaswani et al. 2017, in two dimensions as MAE (He et al. 2022) and MoCo-v3 (Chen et al. 2021) use it. The two
differ in which half encodes the rows; a checkpoint's own tensor is kept, never recomputed.
"""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sincos_2d(width: int, *, grid: int, column_first: bool = True) -> Float[Tensor, "1 T D"]:
    """The table for `grid` × `grid` patches in row-major order, after an all-zero row for the class token.

    Args:
        width: D, a multiple of 4.
        grid: Patches along a side.
        column_first: The first half of D encodes the column index (MAE); False: the row index (MoCo-v3).
    """
    assert width % 4 == 0, f"a width of {width} for two sines and two cosines"
    index = torch.arange(grid, dtype=torch.float64)
    half = _sincos_1d(width // 2, index)  # grid × D/2
    columns, rows = half.repeat(grid, 1), half.repeat_interleave(grid, dim=0)
    table = torch.cat([columns, rows] if column_first else [rows, columns], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float().unsqueeze(0)


def _sincos_1d(width: int, position: Tensor) -> Tensor:
    quarter = width // 2
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = position[:, None] * frequency[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def resize(table: Float[Tensor, "1 T D"], *, grid: int) -> Float[Tensor, "1 U D"]:
    """Resize a table to another grid: class row kept, patch rows bicubic; the same tensor if nothing changes.

    Resizing is a product with a constant matrix: its gradient is a product too, which is deterministic on a GPU, unlike
    that of torch's bicubic kernel. It stays in the table's precision under autocast.
    """
    prefix, patches = table[:, :1], table[:, 1:]
    old = round(patches.shape[1] ** 0.5)
    assert old * old == patches.shape[1], f"not a square grid: {patches.shape[1]} positions"
    if old == grid:
        return table
    weights = _bicubic(old, grid).to(table)
    with torch.autocast(table.device.type, enabled=False):
        return torch.cat([prefix, weights @ patches], dim=1)


@functools.lru_cache(maxsize=16)
def _bicubic(old: int, new: int) -> Float[Tensor, "U N"]:
    """The weight of each old position in each new one: torch's antialiased bicubic filter applied to unit images."""
    unit = torch.eye(old * old).view(old * old, 1, old, old)
    seen = F.interpolate(unit, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
    return seen.flatten(1).T.contiguous()
