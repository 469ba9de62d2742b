"""A lower bound on the time of a computation: its matrix products, at the rate of large ones.

A ratio between two programs does not tell how much is left to gain. The time of their products alone does, if all of
them ran as fast as a large one and everything else were free.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlet.evaluation.pace import take_turns

_SIDE = 1024


def counted_flops(run: Callable[[], Any]) -> int:
    """FLOPs of all matrix products and convolutions in `run`, by PyTorch's counter.

    A multiplication and an addition count as two: twice the MACs of most papers. Attention is computed by explicit
    products meanwhile, which the counter knows on every device; gradients are counted if `run` computes them.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def gemm_gflops(dtype: torch.dtype = torch.float32) -> float:
    """Billions of operations per CPU second in a large product on one thread."""
    factor = torch.ones(_SIDE, _SIDE, dtype=dtype)
    pace = take_turns({"product": lambda: factor @ factor}, repeats=5)["product"]
    return 2 * _SIDE**3 / (pace.cpu_ms / 1000) / 1e9
