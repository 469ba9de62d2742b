"""Random masks over patches, as indices to keep and indices removed.

Names: `keep` are indices of patches that stay visible; `removed` are the others; a `mask` would be True where masked.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def num_kept(num_patches: int, *, mask_ratio: float) -> int:
    """Number of patches that stay visible: floor(N · (1 − ratio)); 49 of 196 at 0.75."""
    return int(num_patches * (1 - mask_ratio) + 1e-9)  # 0.3 · 10 must be 3 in spite of binary fractions


def split_by_noise(noise: Float[Tensor, "B N"], *, kept: int) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B M"]]:
    """(keep, removed): an independent random permutation per image, cut after the `kept` smallest noise values."""
    order = noise.argsort(dim=1, stable=True)
    return order[:, :kept], order[:, kept:]


def gather(x: Tensor, index: Int[Tensor, "B K"]) -> Tensor:
    """Rows `index[b]` of each `x[b]`: shape B × N × … becomes B × K × …."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]
