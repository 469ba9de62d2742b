"""SimMIM: replace masked patches by a token, encode all patches, predict the pixels that were masked.

Paper: Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", arXiv 2111.09886.

Differences: the encoder is the plain ViT that every method here uses, with absolute positions; upstream's ViT has
BEiT's block (relative positions shared over blocks, LayerScale, no key bias) and no absolute positions. So timm opens
the encoder unchanged; with `encoder.relative_position` it has BEiT's block, with relative positions per block. The
decoder is one linear layer per masked patch: upstream's 1×1 convolution and pixel shuffle, without the patches that do
not enter the loss. It starts truncated-normal (0.02) with zero bias, upstream's as torch starts a convolution. The
recipes exempt the mask token from weight decay, like the class token and the positions; upstream decays it.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.objective import Losses, Objective, Step, untraced
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import init_timm, seeded
from vitlet.nn.masking import gather
from vitlet.rng import derive, uniform


class SimMIM(Objective):
    """An encoder that sees a token in place of masked patches, and a linear layer that predicts their pixels."""

    def __init__(self, encoder: Encoder, *, mask_ratio: float = 0.6, unit_pixels: int = 32, seed: int = 0) -> None:
        """Add a mask token and a linear decoder to `encoder`.

        Args:
            encoder: Encoder with positions of any kind.
            mask_ratio: Share of units to mask, rounded up to whole units.
            unit_pixels: Side of the squares masked as one; a multiple of the patch size that divides the image size.
            seed: Seed of the decoder and the mask token.

        Raises:
            UsageError: if units do not tile the image in whole patches, or the ratio masks no unit or all of them.
        """
        super().__init__()
        config = encoder.config
        if unit_pixels % config.patch_size or config.image_size % unit_pixels:
            raise UsageError(
                f"objective.unit_pixels {unit_pixels} does not tile {config.image_size} px in patches of "
                f"{config.patch_size} px",
                fix=f"objective.unit_pixels={config.patch_size}, or a multiple of it that divides {config.image_size}",
            )
        self.encoder = encoder
        self.unit_patches = unit_pixels // config.patch_size
        self.num_units = (config.image_size // unit_pixels) ** 2
        self.masked_units = math.ceil(self.num_units * mask_ratio - 1e-9)  # 0.6 · 5 must be 3 in spite of binary
        if not 0 < self.masked_units < self.num_units:
            raise UsageError(
                f"objective.mask_ratio {mask_ratio} masks {self.masked_units} of {self.num_units} units",
                why="At least one must be masked and one must stay visible",
                fix="objective.mask_ratio=0.6, or a smaller objective.unit_pixels",
            )
        with seeded(derive(seed, "simmim")):
            self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
            trunc_normal_(self.mask_token, std=0.02)
            self.decoder = nn.Linear(config.width, config.patch_size**2 * 3)
            self.decoder.apply(init_timm)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Mean absolute error on masked pixels, over channels, patches and images."""
        noise, survival = self._prepare(batch, step)
        pixels = self.encoder.normalised_patches(batch.images)
        mask = mask_units(noise, masked=self.masked_units, unit_patches=self.unit_patches)
        patches = self.encoder.project(pixels)
        patches = torch.where(mask[:, :, None], self.mask_token.to(patches.dtype), patches)
        encoded = self.encoder.encode(patches, survival=survival)
        removed = places_of(mask, count=self.masked_units * self.unit_patches**2)
        predicted = self.decoder(gather(encoded.patches, removed))
        return Losses(total=F.l1_loss(predicted.float(), gather(pixels, removed)))

    @untraced
    def _prepare(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor | None]:
        noise = torch.from_numpy(uniform(step.key("mask"), batch.slots.numpy(), self.num_units))
        survival = self.encoder.survival(key=step.key("drop path"), slots=batch.slots)
        return noise.to(batch.images.device), survival


def mask_units(noise: Float[Tensor, "B U"], *, masked: int, unit_patches: int) -> Bool[Tensor, "B N"]:
    """True for the patches of the `masked` units with the smallest noise; U units, unit_patches² patches each."""
    side = math.isqrt(noise.shape[1])
    assert side * side == noise.shape[1], f"not a square grid: {noise.shape[1]} units"
    chosen = torch.zeros_like(noise, dtype=torch.bool)
    chosen.scatter_(1, noise.argsort(dim=1, stable=True)[:, :masked], True)
    grid = chosen.view(-1, side, side)
    return grid.repeat_interleave(unit_patches, dim=1).repeat_interleave(unit_patches, dim=2).flatten(1)


def places_of(mask: Bool[Tensor, "B N"], *, count: int) -> Int[Tensor, "B M"]:
    """Indices of the `count` masked patches of each image, ascending; the fixed number avoids a device sync."""
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
