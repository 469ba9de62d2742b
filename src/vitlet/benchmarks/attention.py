"""Speed of explicit and fused attention on this CPU: the measurements behind `choose_kernel`."""

import itertools
import statistics
from typing import Any, get_args

import torch

from vitlet.evaluation.pace import conditions, one_thread, timed
from vitlet.nn.attention import Kernel, attend
from vitlet.nn.kernels import has_bf16

SHAPES = ((64, 12, 17, 16), (64, 12, 50, 16), (64, 12, 65, 16), (64, 3, 50, 64), (16, 12, 197, 16))
"""(images, heads, tokens, head width): micro MAE, MAE-Tiny, micro fine-tuning, ViT-Tiny's old heads, ViT-Tiny."""


def bench(*, repeats: int = 9, shapes: tuple[tuple[int, int, int, int], ...] = SHAPES) -> dict[str, Any]:
    """Time both kernels in turns, forward alone and with backward, on one thread in CPU seconds.

    Returns:
        `ratio`: time of the explicit form over that of the fused one; above 1 the fused kernel is faster. `cpu_ms`: of
        both. Keys are `<heads>x<width> heads, <tokens> tokens, <precision>, <pass>`. Plus the conditions.
    """
    precisions = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_bf16(torch.device("cpu")) else {})
    cpu_ms = {}
    with one_thread():
        for shape, (precision, dtype), backward in itertools.product(shapes, precisions.items(), (True, False)):
            images, heads, tokens, width = shape
            draw = torch.Generator().manual_seed(0)
            packed = torch.randn(images, tokens, 3, heads, width, generator=draw).to(dtype)
            name = f"{heads}x{width} heads, {tokens} tokens, {precision}, {'training' if backward else 'inference'}"
            turns = [
                {kernel: _seconds(packed, kernel, backward=backward) for kernel in get_args(Kernel)}
                for _ in range(repeats + 1)
            ]
            cpu_ms[name] = {k: 1000 * statistics.median(turn[k] for turn in turns[1:]) for k in get_args(Kernel)}
    return {
        "ratio": {name: times["explicit"] / times["fused"] for name, times in cpu_ms.items()},
        "cpu_ms": cpu_ms,
        **conditions(repeats),
    }


def _seconds(packed: torch.Tensor, kernel: Kernel, *, backward: bool) -> float:
    leaf = packed.clone().requires_grad_(backward)

    def run() -> None:
        with torch.set_grad_enabled(backward):
            q, k, v = leaf.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = attend(q, k, v, kernel=kernel).transpose(1, 2).flatten(2)
            if backward:
                mixed.sum().backward()

    return timed(run)[1]
