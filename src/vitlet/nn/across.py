"""Batches spread over several ranks, treated as one: for losses and norms that couple samples.

Without a process group every function is the identity, so a method is written once. All ranks hold the same number of
samples; the loader guarantees it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_is_apart = False


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if _is_distributed() else 0


def size() -> int:
    """The number of ranks that share the batch; 1 without a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order, which is the order of the global batch; no gradient."""
    x = x.detach()
    if size() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def total(x: Tensor) -> Tensor:
    """Sum `x` over the ranks, elementwise; no gradient."""
    if size() == 1:
        return x
    summed = x.detach().to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(summed)
    return summed.to(x.device)


def mean(x: Tensor) -> Tensor:
    """Average `x` over the ranks, elementwise.

    Gradients flow to every rank's `x`. Since the loop averages losses and gradients over ranks, they equal those of one
    process with the whole batch.
    """
    return x if size() == 1 else _Mean.apply(x)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Share no batch within the block, in which this process works alone though it belongs to a group."""
    global _is_apart
    before, _is_apart = _is_apart, True
    try:
        yield
    finally:
        _is_apart = before


def _is_distributed() -> bool:
    return not _is_apart and dist.is_available() and dist.is_initialized()


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
    dist.all_reduce(total)
    return total / size()
