"""What bounds a computation from below on a processor: its matrix products, at the rate of large ones.

A ratio between two programs says nothing about how much is left to gain. That their products alone would take so long,
if all of them ran as fast as a large one and everything else cost nothing, does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlet.evaluate.pace import take_turns

_SIDE = 1024


def counted_flops(run: Callable[[], Any]) -> int:
    """Operations of all matrix products and convolutions in `run`, by PyTorch's counter.

    A multiplication and an addition count as two: twice the MACs of most papers. Attention is computed by products
    meanwhile, which the counter knows on every device; gradients are counted where `run` computes them.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def gemm_gflops(dtype: torch.dtype = torch.float32) -> float:
    """Billions of operations a CPU second in a large product on one thread."""
    factor = torch.ones(_SIDE, _SIDE, dtype=dtype)
    pace = take_turns({"product": lambda: factor @ factor}, repeats=5)["product"]
    return 2 * _SIDE**3 / (pace.cpu_ms / 1000) / 1e9
