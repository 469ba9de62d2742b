"""Centred kernel alignment (CKA) between all layers of all models, streamed over batches.

Linear CKA with the unbiased estimator of HSIC on mini-batches: within a batch of n images a layer is its n × n Gram
matrix, so layers of any width, and models of any depth, can be compared. Over the batches,

    CKA(i, j) = mean HSIC₁(Kᵢ, Kⱼ) / sqrt(mean HSIC₁(Kᵢ, Kᵢ) · mean HSIC₁(Kⱼ, Kⱼ)).

Paper: Kornblith et al. 2019 (CKA), Song et al. 2012 (the unbiased HSIC₁), Nguyen et al. 2021 (over mini-batches);
the U-centring is that of Székely and Rizzo 2014. Wang et al. 2023 draw Figures 1 and 6 with it.

Differences: HSIC₁(K, L) is the inner product of the two U-centred Gram matrices over n(n − 3), which equals the usual
expression with traces and sums. So each layer's Gram matrix is computed once per batch, and all pairs are one small
matrix product; the usual code computes two for every pair, and those of the pair with itself again. Every value has a
standard error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.distributed import across
from vitlet.errors import DataError, UsageError

MIN_IMAGES = 4
"""HSIC₁ divides by n − 3."""

_COLUMNS = 4096
"""Columns of a batch of features processed at once: 1 MB for 64 images."""


@dataclass(frozen=True)
class Alignment:
    """CKA between P points, with its standard errors."""

    cka: Float[Tensor, "P P"]
    """NaN for a point that is the same for all images, since nothing can be aligned with it."""
    error: Float[Tensor, "P P"]
    """Standard error over the batches; NaN for a single batch."""
    batches: int


@final
class Similarity:
    """Sums over batches; ranks may process different batches and add up their sums."""

    def __init__(self, points: int) -> None:
        """Start with empty sums for `points` P, the number of layers of all models together."""
        # Σ h, Σ h², Σ hᵢⱼ hᵢᵢ, Σ hᵢᵢ hⱼⱼ over the batches: all that the values and their errors need.
        self.sums = torch.zeros(4, points, points, dtype=torch.float64)
        self.batches = 0

    def update(self, features: Sequence[Float[Tensor, "n *_"]]) -> None:
        """Add one batch.

        Args:
            features: Features of the same n images at each of the P points; all of an image's values are used.

        Raises:
            DataError: for fewer than four images.
        """
        assert len(features) == self.sums.shape[1], "one tensor a point"
        hsic = hsic_table([gram(x) for x in features]).cpu()
        own = hsic.diagonal()
        self.sums += torch.stack([hsic, hsic.square(), hsic * own[:, None], own[:, None] * own])
        self.batches += 1

    def sum_over_ranks(self) -> None:
        """Add the sums of the other ranks, taken over other batches at the same points."""
        self.sums = across.sum(self.sums)
        self.batches = int(across.sum(torch.tensor(self.batches)))

    def result(self) -> Alignment:
        """Return the alignment over all batches so far.

        The error is that of a ratio of means to first order: that of the mean of
        r = hᵢⱼ − a/(2b)·hᵢᵢ − a/(2c)·hⱼⱼ, over sqrt(bc), where a, b and c are the means of the three.
        """
        assert self.batches, "nothing to compare"
        count = self.batches
        mean, square, with_own, owns = self.sums / count
        own = mean.diagonal()
        own = torch.where(own > 0, own, torch.nan)
        scale = (own[:, None] * own).sqrt()
        row, column = mean / (2 * own[:, None]), mean / (2 * own)
        variance = (
            square
            - 2 * (row * with_own + column * with_own.T)
            + row.square() * owns.diagonal()[:, None]
            + column.square() * owns.diagonal()
            + 2 * row * column * owns
        )
        error = (variance.clamp(min=0) / (count - 1)).sqrt() / scale if count > 1 else torch.full_like(mean, torch.nan)
        return Alignment(cka=mean / scale, error=error, batches=count)


def gram(features: Float[Tensor, "n *_"]) -> Float[Tensor, "n n"]:
    """Inner products between images, in the precision of `features`."""
    if len(features) < MIN_IMAGES:
        raise DataError(
            f"a batch of {len(features)} images",
            why=f"The unbiased estimator of CKA divides by n − 3, so it needs {MIN_IMAGES} images or more",
            fix="analyse more images",
        )
    # HSIC₁ is invariant to adding a vector to all images. What the images share outweighs what distinguishes them and
    # would leave too few fp32 digits for the latter; so the mean is subtracted, a few columns at a time while they are
    # in the cache.
    flat = features.flatten(1)
    product = flat.new_zeros(len(flat), len(flat))
    for columns in flat.split(_COLUMNS, dim=1):
        centred = columns - columns.mean(dim=0)
        product.addmm_(centred, centred.T)
    return product


def hsic_table(grams: Sequence[Float[Tensor, "n n"]]) -> Float[Tensor, "P P"]:
    """HSIC₁ between all pairs of Gram matrices of the same n images, float64."""
    centred = torch.stack([u_centred(k).flatten() for k in grams])
    n = grams[0].shape[0]
    return centred @ centred.T / (n * (n - 3))


def u_centred(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The Gram matrix with a zero diagonal, and with rows and columns that sum to zero; float64."""
    n = gram.shape[0]
    k = gram.double().clone().fill_diagonal_(0)
    rows = k.sum(dim=0) / (n - 2)
    k = k - rows - rows[:, None] + rows.sum() / (n - 1)
    return k.fill_diagonal_(0)


def require_same_size(sizes: dict[str, int]) -> None:
    """Reject models with different image sizes, since they would not see the same images.

    Args:
        sizes: Image size in pixels by model name, safe to print.

    Raises:
        UsageError: naming all of them.
    """
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name}: {size} px" for name, size in sizes.items())
        raise UsageError(
            "encoders of different input sizes",
            why=f"{shown}. CKA compares what models make of the same images",
            fix="analyse those of one size together, the others in a command of their own",
        )
