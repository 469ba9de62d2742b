"""Requirements of a long pre-training run, computed from one step measured here.

    vitlet bench budget --json docs/results/bench-budget.json
    python -m vitlet.benchmarks.budget docs/results/bench-budget.json docs/guides/budget.md

The first command measures on the current device: the time of a training step, the memory it keeps for the backward
pass, the time of the input pipeline from shards, the bytes of an image in each form, the bytes of a checkpoint. The
second writes the tables of the page from that file. Everything else is arithmetic, written out here and marked as
computed; the network speed and the number of images are assumptions, stated with the figures.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlet.benchmarks.input import photographs
from vitlet.data.batch import Batch
from vitlet.data.decode import decode
from vitlet.data.index import open_index
from vitlet.data.packing import Form, pack
from vitlet.data.views import apply_view
from vitlet.disk import read_json, write_file
from vitlet.evaluation.pace import conditions, one_thread, seconds_on, timed
from vitlet.methods.objective import Objective, Step
from vitlet.nn.convnet import new_encoder
from vitlet.nn.kernels import has_bf16, onednn_is_exact, routed_to_onednn
from vitlet.recipe import Recipe
from vitlet.recipes.mae import mae_tiny_400e
from vitlet.reports.ledger import fill
from vitlet.rng import derive
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.optim import build_optimizer
from vitlet.units import steps_per_epoch

IMAGENET_IMAGES = 1_281_167
DEVICES = (1, 8, 64)
NETWORK_BITS = 10e9
"""Assumed bits per second and host: ten-gigabit Ethernet. Every device is assumed to be on a host of its own."""
_PREFETCHED = 2
"""Batches that each worker of torch's `DataLoader` prepares ahead: its `prefetch_factor`, which is left alone."""
_FORMS = {"as photographed": Form(), "short side 256": Form(short_side=256), "256, raw": Form(short_side=256, raw=True)}


def bench(
    *, recipe: Recipe | None = None, repeats: int = 5, micro_batch: int = 16, num_photographs: int = 32
) -> dict[str, Any]:
    """Measure the cost of a step, an image and a checkpoint of a recipe here, and compute that of the whole run.

    Args:
        recipe: Recipe with a duration in epochs, by default `mae_tiny_400e`; data of ImageNet's size is assumed.
        repeats: Timed steps, after one warm-up step.
        micro_batch: Images per forward and backward pass.
        num_photographs: Number of photographs that stand in for the data.

    Returns:
        `measured`, `assumed`, `computed` (by number of devices), and the conditions.
    """
    recipe = recipe or mae_tiny_400e()
    encoder = new_encoder(recipe.encoder, normalisation=recipe.data.normalisation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = recipe.objective.build(encoder, num_classes=0, seed=0).to(device)
    optimizer = build_optimizer(objective, recipe.optimizer, depth=recipe.encoder.depth)
    precision = recipe.budget.precision if recipe.budget.precision != "bf16" or has_bf16(device) else "fp32"
    batch = _batch(recipe, micro_batch).to(device)
    with one_thread():
        with routed_to_onednn(device.type == "cpu" and onednn_is_exact()):
            kept = _bytes_kept(objective, batch, precision)
            step = partial(_step, objective, optimizer, batch, precision)
            seconds = [seconds_on(device, step) for _ in range(repeats + 1)][1:]
        images = {name: _image_cost(recipe, form, num_photographs, repeats) for name, form in _FORMS.items()}
    gradients = sum(p.numel() * p.element_size() for group in optimizer.param_groups for p in group["params"])
    measured = {
        "step_ms_per_image": 1000 * statistics.median(seconds) / micro_batch,
        "kept_for_backward_bytes_per_image": kept / micro_batch,
        "gradient_bytes": gradients,
        "checkpoint_bytes": _checkpoint_bytes(objective, optimizer),
        "input": images,
    }
    assumed = {"images": IMAGENET_IMAGES, "network_bits_per_second": NETWORK_BITS, "micro_batch": micro_batch}
    return {
        "recipe": recipe.name,
        "measured": measured,
        "assumed": assumed,
        "computed": {str(num): computed(recipe, measured, assumed, devices=num) for num in DEVICES},
        "precision": precision,
        "device": "one core" if device.type == "cpu" else torch.cuda.get_device_name(),
        **conditions(repeats),
    }


def computed(recipe: Recipe, measured: dict[str, Any], assumed: dict[str, Any], *, devices: int) -> dict[str, Any]:
    """Compute the whole run on `devices` like the measured one.

    Gradients are averaged once per step by a ring: every device sends and receives 2 (N - 1) / N of their bytes, with
    no overlap. Every device holds parameters, gradients and AdamW's two moments once, the views of its whole share of
    the batch as uint8, and what one part of it keeps for the backward pass. Each loader process prepares two shares
    ahead, in the memory of the host. From a store, every epoch reads every image again, each host those of its share of
    the batch, and before that each host reads all of them once, to check them; reading takes no time of its own.
    """
    batch_size, images = recipe.budget.batch_size, assumed["images"]
    size = {"num_images": images, "batch_size": batch_size}
    steps = recipe.budget.steps(images)
    share = batch_size / devices
    compute = share * measured["step_ms_per_image"] / 1000
    sent = 2 * (devices - 1) / devices * measured["gradient_bytes"]
    network = 8 * sent / assumed["network_bits_per_second"]
    part = min(assumed["micro_batch"], share)
    views = share * sum(3 * view.size**2 for view in recipe.data.views)
    kept = part * measured["kept_for_backward_bytes_per_image"]
    epochs = steps / steps_per_epoch(**size)
    disk = {name: images * one["bytes"] for name, one in measured["input"].items()}
    return {
        "steps": steps,
        "epochs": epochs,
        "hours": steps * (compute + network) / 3600,
        "network_share": network / (compute + network),
        "network_bytes_per_step": sent,
        "memory_bytes": 4 * measured["gradient_bytes"] + views + kept,
        "prefetched_bytes": _PREFETCHED * views,
        "loader_cores": {
            name: one["ms"] / (1000 * (compute + network) / share) for name, one in measured["input"].items()
        },
        "disk_bytes": disk,
        "store_bytes": {name: (epochs + devices) * num for name, num in disk.items()},
        "store_bits_per_second": {
            name: 8 * share * one["bytes"] / (compute + network) for name, one in measured["input"].items()
        },
        "run_bytes": 2 * measured["checkpoint_bytes"],
    }


def _batch(recipe: Recipe, count: int) -> Batch:
    draw = np.random.default_rng(0)
    views = tuple(
        torch.from_numpy(draw.integers(0, 256, (count, view.size, view.size, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
        for view in recipe.data.views
    )
    order = torch.arange(count)
    return Batch(views=views, labels=torch.zeros_like(order), positions=order, slots=order, replaced=())


def _loss(objective: Objective, batch: Batch, precision: str) -> Tensor:
    device = batch.images.device.type
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(device, dtype, enabled=precision != "fp32"):
        return objective(batch, Step(0, 1, 0)).total


def _step(objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch, precision: str) -> None:
    optimizer.zero_grad(set_to_none=True)
    _loss(objective, batch, precision).backward()
    optimizer.step()
    objective.after_step(Step(0, 1, 0))


def _bytes_kept(objective: Objective, batch: Batch, precision: str) -> int:
    """Bytes of memory, excluding parameters, that the forward pass keeps for the backward pass."""
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _loss(objective, batch, precision)
    return sum(saved.values())


def _image_cost(recipe: Recipe, form: Form, count: int, repeats: int) -> dict[str, float]:
    """Bytes of an image in its shard, and CPU milliseconds from there to the views of a batch."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photographs").mkdir()
        for i, file in enumerate(photographs(count)):
            (root / "photographs" / f"{i:04d}.jpg").write_bytes(file)
        index = open_index(root / "photographs", cache=root / "cache")
        normalisation = recipe.data.normalisation
        facts = pack(index, np.arange(count), out=root / "shards", form=form)
        shards = open_index(root / "shards", cache=root / "cache")

        def load(turn: int) -> None:
            for i in range(count):
                image = decode(shards.read(i), path="photograph")
                for v, view in enumerate(recipe.data.views):
                    apply_view(image, view, key=derive(0, turn, i, v), normalisation=normalisation)

        rounds = [timed(load, turn)[1] for turn in range(repeats + 1)]
    return {"bytes": facts["num_bytes"] / count, "ms": 1000 * statistics.median(rounds[1:]) / count}


def _checkpoint_bytes(objective: Objective, optimizer: torch.optim.Optimizer) -> int:
    with tempfile.TemporaryDirectory() as name:
        facts: dict[str, Any] = {"recipe": "", "data": "", "metrics_bytes": 0}
        folder = checkpoint.save(Run(Path(name)), step=1, objective=objective, optimizer=optimizer, facts=facts)
        return sum(file.stat().st_size for file in folder.iterdir())


def tables(figures: dict[str, Any]) -> str:
    """Two Markdown tables: the measurements, and what follows for each number of devices."""
    measured, whole = figures["measured"], figures["computed"]
    lines = ["| measured | |", "|---|---|"]
    lines += [
        f"| device | {figures['device']} of {figures['processor']}, {figures['precision']} |",
        f"| training step | {measured['step_ms_per_image']:.1f} ms an image, median of {figures['repeats']} |",
        f"| kept for the backward pass | {measured['kept_for_backward_bytes_per_image'] / 1e6:.1f} MB an image |",
        f"| gradients | {measured['gradient_bytes'] / 1e6:.1f} MB |",
        f"| checkpoint | {measured['checkpoint_bytes'] / 1e6:.1f} MB |",
    ]
    for name, one in measured["input"].items():
        lines.append(f"| image, {name} | {one['bytes'] / 1e3:.0f} kB; {one['ms']:.2f} ms of one core to its view |")
    heads = [f"{num} device{'s' * (num != '1')}" for num in whole]
    lines += ["", f"| computed | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    first = next(iter(whole.values()))
    rows = {
        "steps": [f"{one['steps']:,}" for one in whole.values()],
        "time": [_time(one["hours"]) for one in whole.values()],
        "of it on the network": [f"{100 * one['network_share']:.1f} %" for one in whole.values()],
        "sent by a device in a step": [f"{one['network_bytes_per_step'] / 1e6:.0f} MB" for one in whole.values()],
        "memory of a device": [f"{one['memory_bytes'] / 1e9:.2f} GB" for one in whole.values()],
        "host memory of a loader process": [f"{one['prefetched_bytes'] / 1e9:.2f} GB" for one in whole.values()],
        "run directory": [f"{one['run_bytes'] / 1e6:.0f} MB" for one in whole.values()],
    }
    for name in first["disk_bytes"]:
        rows[f"disk, {name}"] = [f"{one['disk_bytes'][name] / 1e9:.0f} GB" for one in whole.values()]
        rows[f"read from a store, {name}"] = [f"{one['store_bytes'][name] / 1e12:.1f} TB" for one in whole.values()]
        rows[f"read by a host, {name}"] = [
            f"{one['store_bits_per_second'][name] / 1e6:.1f} Mbit/s" for one in whole.values()
        ]
        rows[f"loader cores of a device, {name}"] = [f"{one['loader_cores'][name]:.2f}" for one in whole.values()]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"


if __name__ == "__main__":
    page, shown = Path(sys.argv[2]), tables(read_json(Path(sys.argv[1]))["figures"])
    write_file(page, fill(page.read_text(), {"results": lambda _: shown}).encode())
