"""Attention distance and entropy: how far each head attends, and over how many patches.

Over the patches only: the class token's row and column are removed from the logits before the softmax, so the
weights of a query sum to one over the patches. Per head, averaged over queries and images,

    distance = Σₖ P(q, k) · |q − k|        (in patches; times the patch size: pixels)
    entropy  = −Σₖ P(q, k) · ln P(q, k)    (nats; computed as log Z − E[z], which needs no small constant)

On a 14 × 14 grid, uniform attention gives 7.2808 patches (116.5 pixels of 16-pixel patches) and ln 196 = 5.278 nats;
attention to the patch itself gives 0 and 0.

Paper: Wang et al. 2023, section 4 and Figure 5; the distance follows Dosovitskiy et al. 2021.
Differences: the authors' code multiplies distances by 14 whatever the patch size, and adds 10⁻⁶ inside the logarithm;
`PUBLISHED_PITCH` and `PUBLISHED_EPSILON` reproduce that.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.distributed import across

PUBLISHED_PITCH = 14
PUBLISHED_EPSILON = 1e-6

_CACHE_BYTES = 3 << 18
"""Attention maps are read several times; a piece of this size stays in a core's L2 cache."""


@final
class AttentionStatistics:
    """Sums over images for one layer; ranks may process different images and add up their sums."""

    def __init__(self, heads: int, *, grid: tuple[int, int], epsilon: float = 0.0) -> None:
        """Start with empty sums.

        Args:
            heads: Number of heads, A.
            grid: Rows and columns of patches; for windowed attention, those of a window.
            epsilon: Added inside the logarithm of the entropy.
        """
        self.grid, self.epsilon = grid, epsilon
        self.sums = torch.zeros(2, heads, dtype=torch.float64)
        self.images = 0
        self._pitch = distances(grid)

    def update(self, logits: Float[Tensor, "B A T T"]) -> None:
        """Add scaled query-key products, taken before the softmax; tokens before the patches are ignored.

        For windowed attention B counts windows.
        """
        self.sums += statistics(logits, self._pitch.to(logits.device), epsilon=self.epsilon).sum(dim=1).cpu()
        self.images += len(logits)

    def sum_over_ranks(self) -> None:
        """Add the sums of the other ranks."""
        self.sums = across.sum(self.sums)
        self.images = int(across.sum(torch.tensor(self.images)))

    def result(self) -> tuple[Float[Tensor, "A"], Float[Tensor, "A"]]:
        """Distance in patches and entropy in nats per head."""
        distance, entropy = self.sums / self.images
        return distance, entropy


def statistics(
    logits: Float[Tensor, "B A T T"], pitch: Float[Tensor, "N N"], *, epsilon: float = 0.0
) -> Float[Tensor, "2 B A"]:
    """Distance and entropy per image and head, averaged over queries (float64).

    Args:
        logits: Before the softmax; T − N tokens precede the patches.
        pitch: Distances between patches.
        epsilon: Added inside the logarithm.
    """
    batch, heads, tokens, _ = logits.shape
    num = pitch.shape[0]
    assert tokens >= num, f"{tokens} tokens for a grid of {num}"
    maps = logits.flatten(0, 1)[:, tokens - num :, tokens - num :]
    step = max(1, _CACHE_BYTES // (4 * num * num)) if logits.device.type == "cpu" else len(maps)
    pieces = [_piece(maps[i : i + step], pitch, epsilon) for i in range(0, len(maps), step)]
    return torch.cat(pieces, dim=1).view(2, batch, heads) / num


def _piece(maps: Float[Tensor, "m N N"], pitch: Float[Tensor, "N N"], epsilon: float) -> Float[Tensor, "2 m"]:
    """Sums over queries."""
    logits = maps.float().contiguous()
    weights = logits.softmax(dim=-1)
    flat = weights.flatten(1)
    if epsilon:
        entropy = -torch.linalg.vecdot(flat, (flat + epsilon).log_())
    else:
        # The largest weight is exp(z − log Z) and at least 1/N: it gives log Z without another exponential.
        log_z = logits.amax(dim=-1) - weights.amax(dim=-1).log()
        entropy = log_z.sum(dim=1) - torch.linalg.vecdot(flat, logits.flatten(1))
    return torch.stack([flat @ pitch.flatten(), entropy]).double()


def distances(grid: tuple[int, int]) -> Float[Tensor, "N N"]:
    """Euclidean distances between the patches of a grid, in patches."""
    rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.linalg.vector_norm(places[:, None] - places[None], dim=-1)
