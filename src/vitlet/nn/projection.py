"""Projection heads: the small networks between an encoder and a loss, discarded after pre-training.

Papers: Chen, Xie and He 2021 (MoCo-v3) for the heads with batch normalisation; Caron et al. 2021 (DINO) for the head
that ends in prototypes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlet.nn.batchnorm import GlobalBatchNorm1d
from vitlet.nn.init import init_timm, seeded
from vitlet.rng import derive


def batchnorm_mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linears without bias, each followed by batch norm and all but the last by ReLU; the last norm has no weights.

    Args:
        widths: Widths of the input, of each hidden layer and of the output.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        is_last = number == len(widths) - 1
        layers += [nn.Linear(before, after, bias=False), GlobalBatchNorm1d(after, affine=not is_last)]
        layers += [] if is_last else [nn.ReLU()]
    return nn.Sequential(*layers)


class PrototypeHead(nn.Module):
    """Three linear layers to a bottleneck on the unit sphere, then cosines with P trainable directions."""

    def __init__(
        self, width: int, *, hidden: int, bottleneck: int, prototypes: int, seed: int, batchnorm: bool = False
    ) -> None:
        """Initialise with truncated-normal weights (0.02).

        Args:
            width: D, the width of the encoder.
            hidden: Width of both hidden layers.
            bottleneck: Dimension of the unit sphere on which images are compared with prototypes.
            prototypes: P.
            seed: Seed of the weights.
            batchnorm: Whether both hidden layers are batch-normalised, before GELU.
        """
        super().__init__()
        norm = GlobalBatchNorm1d if batchnorm else nn.Identity
        with seeded(derive(seed, "prototype head")):
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden),
                norm(hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                norm(hidden),
                nn.GELU(),
                nn.Linear(hidden, bottleneck),
            )
            self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)
            self.apply(init_timm)

    def forward(self, x: Float[Tensor, "B D"], *, freeze_prototypes: bool = False) -> Float[Tensor, "B P"]:
        """Cosines between images and prototypes; `freeze_prototypes` keeps gradients from reaching the prototypes."""
        directions = F.normalize(self.prototypes.weight, dim=1)
        return F.linear(F.normalize(self.mlp(x), dim=1), directions.detach() if freeze_prototypes else directions)
