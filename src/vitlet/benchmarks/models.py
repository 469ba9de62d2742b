"""Parameters, FLOPs and throughput of classifiers, all in one interleaved run.

Parameters and FLOPs are counted, not quoted: FLOPs by PyTorch's counter over one image, counting a multiplication and
an addition separately (twice the MACs of most papers), matrix products and convolutions only. Throughput is the median
over turns in which every model is timed once, so that whatever slows the machine slows all of them. On a CPU: one
thread and CPU time; on a GPU: wall-clock time around synchronised batches.
"""

import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitlet.benchmarks.products import counted_flops
from vitlet.choices import InferencePrecision
from vitlet.evaluation.pace import one_thread, seconds_on
from vitlet.rng import derive

_WARM_UP_TURNS = 1
_GPU_BATCHES = 10
"""Batches per turn: a single one would be shorter than the clock's resolution."""


@dataclass(frozen=True)
class Candidate:
    """A classifier to measure."""

    network: nn.Module
    """Maps images [B 3 S S] to logits."""
    image_size: int
    bytes_in: bool = False
    """Whether it takes uint8 pixels and normalises them itself, as ours do; timm's take normalised floats."""

    def images(self, count: int, device: torch.device) -> Tensor:
        """Random images in the form that it takes."""
        draw = torch.Generator().manual_seed(derive(0, "images") % 2**31)
        shape = (count, 3, self.image_size, self.image_size)
        if self.bytes_in:
            return torch.randint(256, shape, dtype=torch.uint8, generator=draw).to(device)
        return torch.randn(shape, generator=draw).to(device)


def count_flops(candidate: Candidate) -> int:
    """FLOPs per image, counted on the CPU."""
    # Frozen: the counter's hooks fail on a parameter that is itself a module's input, such as PiT's class token.
    network = candidate.network.to("cpu").eval().requires_grad_(False)
    images = candidate.images(1, torch.device("cpu"))
    with torch.inference_mode():
        return counted_flops(lambda: network(images))


def bench_models(
    candidates: Mapping[str, Candidate],
    *,
    batch_size: int,
    repeats: int = 5,
    device: str = "cpu",
    precision: InferencePrecision = "fp32",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure all candidates.

    Args:
        candidates: By name.
        batch_size: Images per forward pass.
        repeats: Number of timed turns.
        device: Device to measure on.
        precision: Precision of the matrix products.
        progress: Called with the number of models and turns done.

    Returns:
        `models`: by name `parameters`, `flops`, `image_size`, `images_per_second` and its minimum and maximum over the
        turns. `engine`, `batch_size`, `repeats`, `threads`.
    """
    flops, done = {}, 0
    for name, candidate in candidates.items():
        flops[name] = count_flops(candidate)
        progress(done := done + 1)
    place = torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with one_thread() if place.type == "cpu" else nullcontext():
        prepared = {name: (c.network.to(place).eval(), c.images(batch_size, place)) for name, c in candidates.items()}
        for turn in range(repeats + _WARM_UP_TURNS):
            for name, (network, images) in prepared.items():
                taken = _seconds(network, images, precision=precision)
                if turn >= _WARM_UP_TURNS:
                    seconds[name].append(taken)
                progress(done := done + 1)
    return {
        "models": {
            name: {
                "parameters": sum(p.numel() for p in candidate.network.parameters()),
                "flops": flops[name],
                "image_size": candidate.image_size,
                "images_per_second": batch_size / statistics.median(seconds[name]),
                "slowest": batch_size / max(seconds[name]),
                "fastest": batch_size / min(seconds[name]),
            }
            for name, candidate in candidates.items()
        },
        "engine": _engine(place, precision),
        "batch_size": batch_size,
        "repeats": repeats,
        "threads": 1 if place.type == "cpu" else None,
    }


def steps(num_models: int, repeats: int) -> int:
    """Number of calls of `progress`."""
    return num_models * (1 + repeats + _WARM_UP_TURNS)


def _seconds(network: nn.Module, images: Tensor, *, precision: str) -> float:
    """Seconds per batch."""
    device = images.device
    batches = 1 if device.type == "cpu" else _GPU_BATCHES

    def run() -> None:
        for _ in range(batches):
            network(images)

    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return seconds_on(device, run) / batches


def _engine(device: torch.device, precision: str) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    thread = ", one thread, CPU time" if device.type == "cpu" else ", wall time"
    return f"PyTorch {torch.__version__}, eager, {precision}, {name}{thread}"
