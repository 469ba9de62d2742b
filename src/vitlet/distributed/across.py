"""Batches spread over several ranks, treated as one: for losses and norms that couple samples.

In a single process every function is the identity, so a method is written once. All ranks hold the same number of
samples; the loader guarantees it.

Raises:
    WorkerError: if a rank is lost; see `World.exchange`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitlet.distributed.world import World


def rank() -> int:
    """The rank of this process."""
    return World.here().rank


def size() -> int:
    """The number of ranks that share the batch."""
    return World.here().size


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order, which is the order of the global batch; no gradient."""
    x = x.detach()
    if size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    with World.here().exchange():
        dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def sum(x: Tensor) -> Tensor:
    """Sum `x` over the ranks, elementwise; no gradient."""
    if size() == 1:
        return x
    total = x.detach().to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    with World.here().exchange():
        dist.all_reduce(total)
    return total.to(x.device)


def mean(x: Tensor) -> Tensor:
    """Average `x` over the ranks, elementwise.

    Gradients flow to every rank's `x`. Since the loop averages losses and gradients over ranks, they equal those of one
    process with the whole batch.
    """
    return x if size() == 1 else _Mean.apply(x)


class _Mean(torch.autograd.Function):
    """A mean over ranks is its own derivative: each rank's input has weight 1/R in every rank's output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _mean(gradients[0])


def _mean(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with World.here().exchange():
        dist.all_reduce(total)
    return total / size()
