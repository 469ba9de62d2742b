"""A feature pyramid built from a plain ViT's last feature map alone.

Paper: Li et al. 2022 (ViTDet), "simple feature pyramid": levels of stride 4, 8, 16 and 32 by deconvolution or pooling,
each through a 1×1 and a 3×3 convolution with LayerNorm, and a fifth by subsampling the fourth.
"""

from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

LEVELS = ("p2", "p3", "p4", "p5", "p6")
"""Pixels between neighbouring features: 4, 8, 16, 32, 64 for patches of 16."""


class SimpleFeaturePyramid(nn.Module):
    """Turn one feature map into five, by name."""

    def __init__(self, width: int, *, channels: int) -> None:
        """`width` is the encoder's, `channels` that of every level."""
        super().__init__()
        resized: list[tuple[nn.Module, int]] = [
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, width // 2, 2, stride=2),
                    LayerNorm2d(width // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
                ),
                width // 4,
            ),
            (nn.ConvTranspose2d(width, width // 2, 2, stride=2), width // 2),
            (nn.Identity(), width),
            (nn.MaxPool2d(2, ceil_mode=True), width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                resize,
                nn.Conv2d(inside, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for resize, inside in resized
        )
        self.last = nn.MaxPool2d(1, stride=2)

    def forward(self, x: Float[Tensor, "B D G G"]) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """The five levels, finest first."""
        maps = [level(x) for level in self.levels]
        return dict(zip(LEVELS, [*maps, self.last(maps[-1])], strict=True))
