"""Speed of an exported ViT-Tiny relative to timm's in eager PyTorch: inference at 224 pixels, on one thread.

All contenders must give the same features before any of them is timed. They take turns in one process and are timed in
CPU seconds. Whatever the processor does not support is left out and reported.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import Tensor

from vitlet.augmentation import Centre, View
from vitlet.benchmarks.products import counted_flops, gemm_gflops
from vitlet.evaluation.agreement import relative_error
from vitlet.evaluation.pace import conditions, one_thread, take_turns
from vitlet.nn.encoder import Encoder
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive
from vitlet.weights.folder import Saved, write_model
from vitlet.weights.form import Form
from vitlet.weights.formats import Precision, open_graph, write_graph
from vitlet.weights.portable import Portable, PortableEncoder

TINY = EncoderConfig()
TIMM = "timm eager fp32"
_FP32, _BF16 = 1e-4, 5e-2


def bench(*, repeats: int = 5, batch_sizes: tuple[int, ...] = (1, 32), shape: EncoderConfig = TINY) -> dict:
    """Time all contenders at each batch size, after one warm-up turn.

    Returns:
        `batches`: by batch size, `cpu_ms` (median CPU milliseconds per image), `spread` and `ratio` (how many times
        faster than timm in eager fp32). `ratio`: the same for all sizes in one table. `relative_error` of each one's
        features. `notes`: what was left out and why. `bound`: by batch size, the ratio of a hypothetical program that
        spends time only on the matrix products, at the rate of torch's own large fp32 products here. `gemm_gflops`:
        that rate. `repeats`, `threads`, `processor`, `vector_extensions`.
    """
    saved = Saved(Encoder(shape).eval(), None, (), View(size=shape.image_size, crop=Centre(), flip=0), "", {})
    model, notes = PortableEncoder(saved), []
    draw = torch.Generator().manual_seed(derive(0, "bench", "export") % 2**63)
    images = torch.randn(max(batch_sizes), 3, shape.image_size, shape.image_size, generator=draw)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode(), one_thread():
        present = _contenders(saved, model, Path(scratch), notes)
        errors = _errors(present, images[:2])
        rate, flops = gemm_gflops(), counted_flops(lambda: model(images[:1]))
        batches, bound = {}, {}
        for size in batch_sizes:
            batch = images[:size]
            calls = {name: _call(run, batch) for name, run in present.items()}
            paces = take_turns(calls, repeats=repeats)
            taken = {name: pace.cpu_ms / size for name, pace in paces.items()}
            batches[size] = {
                "cpu_ms": taken,
                "spread": {name: pace.spread for name, pace in paces.items()},
                "ratio": {name: taken[TIMM] / value for name, value in taken.items()},
            }
            bound[size] = taken[TIMM] / (1000 * flops / rate / 1e9)
    return {
        "batches": batches,
        "ratio": {f"{n} × {k}": v for n, b in batches.items() for k, v in b["ratio"].items() if k != TIMM},
        "bound": bound,
        "relative_error": errors,
        "notes": notes,
        "gemm_gflops": rate,
        **conditions(repeats),
    }


def _contenders(saved: Saved, model: Portable, scratch: Path, notes: list[str]) -> dict[str, Callable[[Tensor], Any]]:
    write_model(scratch / "timm", encoder=saved.encoder, evaluation=saved.evaluation, facts={})
    network = cast(Any, timm.create_model(f"local-dir:{scratch / 'timm'}", pretrained=True)).eval()
    present: dict[str, Callable[[Tensor], Any]] = {
        TIMM: lambda images: network.forward_features(images).numpy(),
        "vitlet eager fp32": lambda images: model(images)[0].numpy(),
    }
    for target in ("onnx", "openvino"):
        form, folder = Form(target), scratch / target
        folder.mkdir()
        write_graph(model, folder, form)
        precisions: tuple[Precision, ...] = ("f32", "bf16") if target == "openvino" else ("f32",)
        for precision in precisions:
            name = f"{target} {'fp32' if precision == 'f32' else precision}"
            if precision == "bf16" and not has_bf16(torch.device("cpu")):
                notes.append(f"{name}: not supported by this CPU")
                continue
            run = open_graph(model, folder, form, precision=precision)
            present[name] = lambda images, run=run: run(images)["tokens"]
    return present


def _call(run: Callable[[Tensor], Any], batch: Tensor) -> Callable[[], Any]:
    return lambda: run(batch)


def _errors(present: dict[str, Callable[[Tensor], Any]], images: Tensor) -> dict[str, float]:
    """Errors relative to timm; asserts that all contenders compute the same."""
    features = {name: np.asarray(run(images), dtype=np.float32) for name, run in present.items()}
    errors = {name: relative_error(features[TIMM], output) for name, output in features.items()}
    far = {n: e for n, e in errors.items() if not e <= (_BF16 if n.endswith("bf16") else _FP32)}
    assert not far, f"not the same computation: {far}"
    return errors
