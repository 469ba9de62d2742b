"""Speed of one training step, relative to plain code that computes the same loss from the same weights.

A step is forward, backward, AdamW and the updates that follow the weights, on ViT-Tiny with 12 heads at 224 pixels.
All contenders of a method must give the same loss before any of them is timed. They take turns in one process on one
thread and are timed in CPU seconds, so that other work on the machine costs little more than its share of the caches.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from vitlet.benchmarks.contenders import PLAIN, Contender, Method, Shapes, contenders
from vitlet.benchmarks.products import counted_flops, gemm_gflops
from vitlet.evaluation.pace import conditions, one_thread, take_turns
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig

TINY, BASE = EncoderConfig(), EncoderConfig(width=768)
SHAPES = {
    "mae": Shapes(TINY, BASE, batch_size=64),
    "distill": Shapes(TINY, BASE, batch_size=16),
    "mocov3": Shapes(TINY, BASE, batch_size=16),
    "finetune": Shapes(TINY, BASE, batch_size=16),
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_EQUAL = 1e-5
_EQUAL_BF16 = 1e-2
"""Where the hardware has bf16, our distillation teacher uses it even if the student is in fp32."""


def bench(
    *, repeats: int = 5, precisions: Sequence[str] = ("fp32", "bf16"), shapes: dict[str, Shapes] = SHAPES
) -> dict[str, Any]:
    """Time all contenders of every method in turns, after one warm-up turn.

    Args:
        repeats: Number of timed turns.
        precisions: Precisions of ours; the others compute in fp32 as published.
        shapes: Sizes for each method.

    Returns:
        `steps`: by method, the result of `time_step`. `ratio`: how many times faster each contender is than its
        method's plain code. `repeats`, `threads`, `processor`, `vector_extensions`.
    """
    steps = {
        method: time_step(method, shapes[method], repeats=repeats, precisions=precisions) for method in get_args(Method)
    }
    ratio = {f"{method} {name}": value for method, step in steps.items() for name, value in step["ratio"].items()}
    return {
        "steps": steps,
        "ratio": {name: value for name, value in ratio.items() if not name.endswith(PLAIN)},
        **conditions(repeats),
    }


def time_step(method: Method, shapes: Shapes, *, repeats: int, precisions: Sequence[str]) -> dict[str, Any]:
    """Time the contenders of one method.

    Returns:
        `cpu_ms`: median CPU milliseconds of a step by contender (`plain`, `transformers`, `vitlet fp32`, …). `ratio`:
        how many times faster each is than `plain`. `bound`: by precision, the ratio of a hypothetical step that spends
        time only on our matrix products, all at the rate of torch's large ones in that precision here (a distillation
        teacher may compute in bf16 next to a student in fp32). `loss_difference`: of each in fp32, relative to plain.
        `notes`: what was left out and why. `batch_size`. `onednn`: whether ours used oneDNN for its fp32 products.
        `foreign_cores`: mean number of cores that other processes kept busy, None if the system does not tell.
    """
    with one_thread():
        present, notes = contenders(method, shapes, precisions)
        taught_in_bf16 = method == "distill" and has_bf16(torch.device("cpu"))
        differences = loss_differences(present, within=_EQUAL_BF16 if taught_in_bf16 else _EQUAL)
        flops = counted_flops(next(c.step for name, c in present.items() if name.startswith("vitlet")))
        rates = {name: gemm_gflops(_DTYPES[name]) for name in precisions if f"vitlet {name}" in present}
        with _foreign_load() as foreign:
            paces = take_turns({name: contender.step for name, contender in present.items()}, repeats=repeats)
    cpu_ms = {name: pace.cpu_ms for name, pace in paces.items()}
    return {
        "cpu_ms": cpu_ms,
        "ratio": {name: cpu_ms[PLAIN] / taken for name, taken in cpu_ms.items()},
        "bound": {name: cpu_ms[PLAIN] / (flops / rate / 1e6) for name, rate in rates.items()},
        "loss_difference": differences,
        "notes": notes,
        "batch_size": shapes.batch_size,
        "onednn": any(contender.onednn for contender in present.values()),
        "foreign_cores": foreign.get("cores"),
    }


def loss_differences(present: dict[str, Contender], *, within: float = _EQUAL) -> dict[str, float]:
    """Loss of every fp32 contender relative to plain; asserts that they compute the same."""
    losses = {name: c.value() for name, c in present.items() if not name.endswith("bf16")}
    differences = {name: abs(loss / losses[PLAIN] - 1) for name, loss in losses.items()}
    assert max(differences.values()) <= within, f"not the same computation: {losses}"
    return differences


@contextlib.contextmanager
def _foreign_load() -> Iterator[dict[str, float]]:
    """Store under `cores` how many cores other processes kept busy, if Linux reports it."""
    load: dict[str, float] = {}
    before, began, own = _busy_seconds(), time.perf_counter(), time.process_time()
    yield load
    after, elapsed = _busy_seconds(), time.perf_counter() - began
    if before is not None and after is not None:
        load["cores"] = max(0.0, (after - before - (time.process_time() - own)) / elapsed)


def _busy_seconds() -> float | None:
    try:
        user, nice, system = (int(x) for x in Path("/proc/stat").read_text().split()[1:4])
    except OSError:
        return None
    return (user + nice + system) / 100  # the kernel counts in hundredths for user space on every architecture
