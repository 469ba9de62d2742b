"""Speed of extracting frozen features, relative to timm in eager fp32 with the same weights: ViT-Tiny at 224 pixels.

From decoded images to one vector each, as in a probe; reading and decoding belong to the input benchmark. All
contenders must give the same features before any of them is timed, bf16 within its precision.
"""

from typing import Any

import torch
from torch import Tensor

from vitlet.benchmarks.analyse import as_timm
from vitlet.benchmarks.plain import normalised
from vitlet.data.batch import Batch
from vitlet.evaluation.agreement import relative_error
from vitlet.evaluation.features import extract
from vitlet.evaluation.pace import conditions, take_turns
from vitlet.nn.encoder import Encoder
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive

TIMM = "timm eager fp32"
_FP32, _BF16 = 1e-4, 5e-2


def bench(*, repeats: int = 5, batch_size: int = 64, shape: EncoderConfig | None = None) -> dict[str, Any]:
    """Time all contenders in turns, after one warm-up turn.

    Args:
        repeats: Number of timed turns.
        batch_size: Images per batch.
        shape: Shape of the encoder; by default ViT-Tiny.

    Returns:
        `cpu_ms` (median CPU milliseconds per image) and `spread` by contender; `ratio`: how many times faster than timm
        each is; `relative_error` of its features; `notes`: what was left out and why; the conditions.
    """
    encoder, notes = Encoder(shape or EncoderConfig()).eval(), list[str]()
    network, batch = as_timm(encoder), noise_batch(encoder.config.image_size, batch_size)

    def plain() -> Tensor:
        with torch.inference_mode():
            return network.forward_features(normalised(encoder, batch.images))[:, 1:].mean(dim=1)

    contenders = {TIMM: plain, "vitlet fp32": lambda: extract(encoder, [batch], pool="mean")[0]}
    if has_bf16(torch.device("cpu")):
        contenders["vitlet bf16"] = lambda: extract(encoder, [batch], pool="mean", precision="bf16")[0]
    else:
        notes.append("vitlet bf16: not supported by this CPU")
    expected = plain().numpy()
    errors = {name: relative_error(expected, call().numpy()) for name, call in contenders.items()}
    far = {name: e for name, e in errors.items() if not e <= (_BF16 if name.endswith("bf16") else _FP32)}
    assert not far, f"not the same computation: {far}"
    paces = take_turns(contenders, repeats=repeats)
    return {
        "cpu_ms": {name: pace.cpu_ms / batch_size for name, pace in paces.items()},
        "spread": {name: pace.spread for name, pace in paces.items()},
        "ratio": {name: paces[TIMM].cpu_ms / pace.cpu_ms for name, pace in paces.items() if name != TIMM},
        "relative_error": errors,
        "notes": notes,
        "batch_size": batch_size,
        **conditions(repeats),
    }


def noise_batch(image_size: int, count: int) -> Batch:
    """A batch of `count` images of noise without labels."""
    draw = torch.Generator().manual_seed(derive(0, "bench", "noise") % 2**63)
    images = torch.randint(256, (count, 3, image_size, image_size), generator=draw, dtype=torch.uint8)
    numbers = torch.arange(count)
    return Batch((images,), labels=torch.full((count,), -1), positions=numbers, slots=numbers)
