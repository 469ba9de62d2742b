"""High-frequency content of each layer's patch map: the Fourier spectrum along the diagonal.

The patch tokens of a layer form a map of D channels. For each image and channel the amplitude |F| of the 2-D Fourier
transform is taken at the frequencies (k, k), k = 0 … ⌈n/2⌉ − 1, in units of 2π/n per patch, and averaged over images
and channels as ln(|F| + 10⁻⁶). A layer's value is

    Δ = a(highest) − a(0),

negative if low frequencies dominate; a layer that smooths has a lower Δ. On a 14 × 14 grid the highest is 6/7·π.

A map of white noise is flat except for one step that is not a property of the map: F at frequency 0 is real, and the
mean logarithm of a real amplitude is ½·ln 2 = 0.347 below that of a complex one of the same power.

Paper: Park and Kim 2022; Wang et al. 2023, Figure 3. They publish neither code nor the set of points, and describe the
difference as low minus high; the sign here is Park and Kim's. Two sets of points are offered. 13 points for 12 blocks:
the embedding (patches and positions), then each block's output. 25 points: the embedding, then after each attention
and each MLP, both with the residual added. In addition there is the patch embedding before positions are added, since
a table of positions has a spectrum of its own, which masks that of the patches.

Differences: published code transforms the whole map and rolls it; only the diagonal is used, so only the diagonal is
computed here, as one matrix product with N × 2⌈n/2⌉ cosines and sines.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.distributed import across

_FLOOR = 1e-6


@final
class Spectrum:
    """Sums over images at P points of one model; ranks may process different images and add up their sums."""

    def __init__(self, points: int, *, grid: tuple[int, int]) -> None:
        """`grid`: rows and columns of patches."""
        self.basis = diagonal_basis(grid)
        self.sums = torch.zeros(points, self.basis.shape[1] // 2, dtype=torch.float64)
        self.images = 0

    def update(self, maps: list[Float[Tensor, "B N _"]]) -> None:
        """Add the patch tokens of the same images at each point."""
        assert len(maps) == len(self.sums), "one tensor a point"
        basis = self.basis.to(maps[0].device)
        self.sums += torch.stack([log_amplitudes(x, basis).sum(dim=0).cpu() for x in maps])
        self.images += len(maps[0])

    def sum_over_ranks(self) -> None:
        """Add the sums of the other ranks."""
        self.sums = across.sum(self.sums)
        self.images = int(across.sum(torch.tensor(self.images)))

    def result(self) -> Float[Tensor, "P K"]:
        """Mean log amplitudes, from frequency 0 upwards."""
        return self.sums / self.images

    def delta(self) -> Float[Tensor, "P"]:
        """Highest minus lowest frequency at each point."""
        curve = self.result()
        return curve[:, -1] - curve[:, 0]


def log_amplitudes(tokens: Float[Tensor, "B N D"], basis: Float[Tensor, "N C"]) -> Float[Tensor, "B K"]:
    """ln(|F| + 10⁻⁶) per image and frequency, averaged over channels (float64)."""
    waves = basis.T @ tokens.float()
    real, imaginary = waves.chunk(2, dim=1)
    return (torch.hypot(real, imaginary) + _FLOOR).log_().double().mean(dim=-1)


def frequencies(grid: tuple[int, int]) -> list[float]:
    """Frequencies of the diagonal, in units of π per patch of the shorter side."""
    side = min(grid)
    return [2 * k / side for k in range(math.ceil(side / 2))]


def diagonal_basis(grid: tuple[int, int]) -> Float[Tensor, "N C"]:
    """Cosines, then sines, of the frequencies (k, k) at each patch; C = 2·⌈n/2⌉ with n the shorter side."""
    rows, columns = grid
    at = torch.cartesian_prod(torch.arange(rows) / rows, torch.arange(columns) / columns).double().sum(dim=1)
    angle = 2 * math.pi * at[:, None] * torch.arange(math.ceil(min(grid) / 2))
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()
