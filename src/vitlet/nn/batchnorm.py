"""Batch normalisation over the global batch, on any device.

Paper: Ioffe and Szegedy 2015, with the statistics of all ranks as MoCo-v3 and SimCLR need them.

Differences from `torch.nn.SyncBatchNorm`: also runs on CPUs (gloo); expects the same number of samples on each rank.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlet.distributed import across


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the global batch, with the same tensor names and, in one process, the same results."""

    def __init__(self, width: int, *, affine: bool = True) -> None:
        """`affine` adds a trainable scale and shift."""
        super().__init__(width, affine=affine)

    def forward(self, input: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Normalise each column; in training, by statistics over the samples of all ranks (two at least)."""
        if not self.training or across.size() == 1:
            return super().forward(input)
        values = input.float()
        mean = across.mean(values.mean(dim=0))
        variance = across.mean((values - mean).square().mean(dim=0))
        self._follow(mean, variance, count=len(input) * across.size())
        normal = (values - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            normal = normal * self.weight + self.bias
        return normal.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1
