"""How fast one step of MAE pre-training is, next to published code and to Hugging Face's, from the same weights.

A step is forward, backward and AdamW on ViT-Tiny with 12 heads at 224 pixels. All contenders hold the same weights and
mask, and must give the same loss before any of them is timed. They take turns in one process and one thread and are
timed in CPU seconds, so that other work on the machine costs little more than its share of the caches.

  * Published (`vitlet.bench.reference.PlainMAE`) and Hugging Face's get normalised floats, as their loaders give.
  * Ours gets uint8, as our loader gives, and is charged for the normalisation.
"""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vitlet.bench.reference import PlainMAE, transformers_mae
from vitlet.data.batch import Batch
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.nn.kernels import onednn_is_exact, routed_to_onednn
from vitlet.recipe import EncoderConfig, OptimizerConfig
from vitlet.rng import uniform
from vitlet.run import environment
from vitlet.train.optim import build_optimizer, set_lr

TINY = EncoderConfig(position="sincos", init="xavier")
_STEP = Step(index=0, total=1, seed=0)
_LR = 1e-4
_OPTIMIZER = OptimizerConfig(base_lr=_LR)
_EQUAL = 1e-5


@dataclass(frozen=True)
class Contender:
    """A network with its optimizer and its way to the loss."""

    loss: Callable[[], Tensor]
    optimizer: Optimizer
    onednn: bool = False
    """Whether it asks oneDNN for its fp32 products, as `vitlet` does where that is exact."""

    @torch.no_grad()
    def value(self) -> float:
        """The loss at the present weights."""
        with routed_to_onednn(enabled=self.onednn):
            return float(self.loss())

    def step(self) -> float:
        """CPU seconds of one whole step."""
        with routed_to_onednn(enabled=self.onednn):
            began = time.process_time()
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self.optimizer.step()
            return time.process_time() - began


def bench_step(
    *,
    repeats: int = 5,
    batch_size: int = 64,
    precisions: Sequence[str] = ("fp32",),
    encoder: EncoderConfig = TINY,
) -> dict[str, Any]:
    """Time all contenders in turns, after one turn that does not count.

    Args:
        repeats: Turns that count.
        batch_size: B.
        precisions: Of ours, `fp32` or `bf16`; the others compute in fp32 as they are published.
        encoder: The size of the network.

    Returns:
        `cpu_ms`: median CPU milliseconds of a step by contender (`published`, `transformers`, `vitlet fp32`, …).
        `ratio`: how many times faster each is than `published`. `loss_difference`: of each in fp32, relative to
        published. `notes`: what was left out and why. `batch_size`, `repeats`, `threads`, `processor`,
        `vector_extensions`. `onednn`: whether ours had its fp32 products from there. `foreign_cores`: the mean
        number of cores that others kept busy meanwhile, None where the system does not tell.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        contenders, notes = make_contenders(batch_size=batch_size, precisions=precisions, encoder=encoder)
        differences = loss_differences(contenders)
        with _foreign_load() as foreign:
            turns = [[contender.step() for contender in contenders.values()] for _ in range(repeats + 1)]
    finally:
        torch.set_num_threads(threads)
    medians = [1000 * statistics.median(column) for column in zip(*turns[1:], strict=True)]
    cpu_ms = dict(zip(contenders, medians, strict=True))
    return {
        "cpu_ms": cpu_ms,
        "ratio": {name: cpu_ms["published"] / taken for name, taken in cpu_ms.items()},
        "loss_difference": differences,
        "notes": notes,
        "batch_size": batch_size,
        "repeats": repeats,
        "threads": 1,
        "processor": environment()["processor"],
        "vector_extensions": torch.backends.cpu.get_cpu_capability(),
        "onednn": any(contender.onednn for contender in contenders.values()),
        "foreign_cores": foreign.get("cores"),
    }


def make_contenders(
    *, batch_size: int, precisions: Sequence[str], encoder: EncoderConfig
) -> tuple[dict[str, Contender], list[str]]:
    """Published first; the notes name those that could not come."""
    mae = _new_mae(encoder)
    batch = _random_batch(batch_size, encoder.image_size)
    noise = torch.from_numpy(uniform(_STEP.key("mask"), batch.slots.numpy(), mae.encoder.num_patches))
    mean, std = (torch.tensor(x)[:, None, None] for x in (mae.encoder.mean, mae.encoder.std))
    images = (batch.images / 255 - mean) / std
    with seeded(0):  # the peers draw weights from the global generator before they get ours
        plain = PlainMAE(mae)
    contenders, notes = {"published": Contender(lambda: plain(images, noise), _peer_optimizer(plain))}, []
    if importlib.util.find_spec("transformers"):
        with seeded(0):
            peer = transformers_mae(mae)
        contenders["transformers"] = Contender(lambda: peer(images, noise=noise).loss, _peer_optimizer(peer))
    else:
        notes.append("transformers: not installed (it comes with the extra `dev`)")
    for precision in precisions:
        if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            notes.append("vitlet bf16: not supported by this CPU")
        else:
            contenders[f"vitlet {precision}"] = _ours(_new_mae(encoder), batch, precision)
    return contenders, notes


def loss_differences(contenders: dict[str, Contender]) -> dict[str, float]:
    """Relative to published, of every contender in fp32; asserts that they compute the same."""
    losses = {name: c.value() for name, c in contenders.items() if not name.endswith("bf16")}
    differences = {name: abs(loss / losses["published"] - 1) for name, loss in losses.items()}
    assert max(differences.values()) <= _EQUAL, f"not the same computation: {losses}"
    return differences


def _new_mae(encoder: EncoderConfig) -> MAE:
    return MAE(Encoder(encoder))


def _random_batch(size: int, pixels: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size, 3, pixels, pixels), dtype=torch.uint8, generator=draw)
    numbers = torch.arange(size)
    return Batch((images,), labels=torch.full((size,), -1), positions=numbers, slots=numbers)


def _ours(mae: MAE, batch: Batch, precision: str) -> Contender:
    optimizer = build_optimizer(mae, _OPTIMIZER, depth=mae.encoder.config.depth)
    set_lr(optimizer, _LR)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return mae(batch, _STEP).total

    return Contender(loss, optimizer, onednn=precision == "fp32" and onednn_is_exact())


def _peer_optimizer(network: nn.Module) -> Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    return AdamW(trained, lr=_LR, betas=_OPTIMIZER.betas, weight_decay=_OPTIMIZER.weight_decay)


@contextlib.contextmanager
def _foreign_load() -> Iterator[dict[str, float]]:
    """Puts the cores that other processes kept busy under `cores`, where Linux tells."""
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
