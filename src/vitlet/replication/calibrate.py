"""Expected cost of a plan: each kind of training is tried for a few steps, and finished runs correct the estimate.

A trial is the real job on a few images of noise in the recipe's size, at most 64 per batch, in a temporary folder. It
measures seconds per image and the bytes that a run leaves. The results are kept in OUT/calibration.json together with
the machine they belong to; on another machine they are measured again.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from vitlet.console import Teller
from vitlet.disk import read_json, write_json
from vitlet.environment import environment
from vitlet.errors import VitletError
from vitlet.evaluation.pace import one_thread
from vitlet.jobs.options import Options
from vitlet.jobs.training import finetune, pretrain
from vitlet.recipe import Recipe
from vitlet.recipes import with_overrides
from vitlet.replication.plan import NODE_FILE, Node, Plan, recipe_of
from vitlet.replication.runner import folder_bytes, is_on_cpu
from vitlet.run import Run
from vitlet.text import plural

_STEPS, _BATCH, _IMAGES = 5, 64, 64
_FORWARD = 1 / 3
"""Cost of a forward pass, as a fraction of a training step."""
_PROBE_IMAGES = 5000
"""Number of images whose features are read at the end of pre-training."""
_ANALYSES = 6.0
"""Cost of a look in forward passes: explicit attention, CKA of all pairs, probes of each layer."""
_START_SECONDS = 2.0
"""Start-up time of any job."""


@dataclass(frozen=True)
class Rate:
    """Cost of one kind of training on this machine."""

    seconds_per_image: float
    """Per training image, both passes: CPU time on one thread, or wall-clock time on a GPU."""
    bytes: int
    """Left on disk by a run."""


@dataclass(frozen=True)
class Cost:
    """Expected cost of each run, by address, omitting runs of unknown cost."""

    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    unknown: tuple[str, ...]
    """Addresses of runs that could not be tried."""
    processor: str = "one core"
    """The processor whose time the seconds count."""

    def wall_seconds(self, plan: Plan, *, side_by_side: int) -> float:
        """Wall-clock time with `side_by_side` parallel runs; at least that of the longest chain of runs."""
        ends: dict[str, float] = {}
        for node in plan.nodes.values():  # inputs precede what needs them
            begins = max((ends[address] for address in node.inputs), default=0.0)
            ends[node.address] = begins + self.seconds.get(node.address, 0.0)
        return max(sum(self.seconds.values()) / side_by_side, *ends.values(), 0.0)


def expected_cost(plan: Plan, *, teller: Teller, options: Options = Options()) -> Cost:
    """Estimate the cost of every run that can be made.

    Args:
        plan: The runs.
        teller: Receives progress messages.
        options: Where it computes.
    """
    file = plan.out / "calibration.json"
    machine = {k: environment()[k] for k in ("processor", "cores")} | {"device": options.device}
    rates = _kept(file, machine)
    waiting = plan.possible
    wanted: dict[str, Node] = {}
    for node in waiting:
        if node.recipe and _key(node) not in rates:
            wanted.setdefault(_key(node), node)
    if wanted and plan.scale.is_tried:
        with tempfile.TemporaryDirectory() as folder, teller.progress("trying steps", total=len(wanted)) as tick:
            for done, (key, node) in enumerate(wanted.items()):
                tick(done, node.title)
                found = _try(node, Path(folder), plan, options)
                if found is not None:
                    rates[key] = found
            tick(len(wanted))
        write_json(file, {"machine": machine, "rates": {k: vars(v) for k, v in rates.items()}})
    on_cpu = is_on_cpu(options)
    measured = _measured(plan, "cpu_seconds" if on_cpu else "wall_seconds")
    seconds, sizes, unknown = {}, {}, []
    for node in waiting:
        found = _seconds(node, rates, measured, plan)
        if found is None:
            unknown.append(node.address)
        else:
            seconds[node.address] = found
        rate = rates.get(_key(node)) if node.recipe else None
        sizes[node.address] = rate.bytes if rate else node.image_bytes
    return Cost(seconds, sizes, tuple(unknown), "one core" if on_cpu else "one GPU")


def _kept(file: Path, machine: Mapping[str, Any]) -> dict[str, Rate]:
    if not file.is_file():
        return {}
    found = read_json(file)
    return {k: Rate(**v) for k, v in found["rates"].items()} if found["machine"] == machine else {}


def _measured(plan: Plan, clock: str) -> dict[str, float]:
    """Median seconds per image of finished trainings, by kind; `clock` is a key of node.json."""
    ratios: dict[str, list[float]] = {}
    for node in plan.nodes.values():
        if node.recipe and node.is_finished and node.images_seen:
            facts = read_json(node.folder / NODE_FILE)
            if not facts["is_resumed"]:  # its clock covered the last part only
                ratios.setdefault(_key(node), []).append(facts[clock] / node.images_seen)
    return {key: median(values) for key, values in ratios.items()}


def _seconds(node: Node, rates: Mapping[str, Rate], measured: Mapping[str, float], plan: Plan) -> float | None:
    if node.kind == "images":
        return _START_SECONDS
    if node.recipe:
        key = _key(node)
        if key in measured:
            return measured[key] * node.images_seen
        if key not in rates:
            return None
        looked_at = node.test_images if node.kind == "finetune" else min(_PROBE_IMAGES, node.train_images)
        return _START_SECONDS + rates[key].seconds_per_image * (node.images_seen + _FORWARD * looked_at)
    forward = _forward_seconds(node, rates, plan)
    if forward is None:
        return None
    if node.kind in ("probe", "evaluate"):
        return _START_SECONDS + forward * (node.train_images + node.test_images)
    return _START_SECONDS + _ANALYSES * forward * min(node.look_images, node.test_images) * len(node.subjects)


def _forward_seconds(node: Node, rates: Mapping[str, Rate], plan: Plan) -> float | None:
    """Seconds per image through one of the node's encoders; the most expensive one known."""
    trained = [plan.nodes[a] for a in node.inputs if a in plan.nodes and plan.nodes[a].recipe]
    known = [rates[_key(n)].seconds_per_image for n in trained if _key(n) in rates and n.kind == "finetune"]
    known = known or [rates[_key(n)].seconds_per_image for n in trained if _key(n) in rates]
    return _FORWARD * max(known) if known else None


def _key(node: Node) -> str:
    """Equal for runs with equal cost per image: the recipe without length, batch size, learning rates and seed."""
    return _trial(recipe_of(node)).fingerprint()


def _trial(recipe: Recipe) -> Recipe:
    batch = min(recipe.budget.batch_size, _BATCH)
    last = {"unit": "share", "n": 1}
    return with_overrides(
        recipe,
        {
            "budget.duration": {"unit": "steps", "n": _STEPS},
            "budget.batch_size": batch,
            "budget.seed": 0,
            "budget.checkpoint_every": last,
            "budget.probe_every": last,
            "budget.log_every": 1,
            "optimizer.warmup": {"unit": "steps", "n": 1},
            "optimizer.base_lr": 1e-4,
            "optimizer.layer_decay": 1.0,
        },
    )


def _try(node: Node, folder: Path, plan: Plan, options: Options) -> Rate | None:
    """Run a few steps on one thread, as in parallel runs (two that wait for each other's cores would spin).

    Return None if that is not possible here, for example for lack of a teacher or of memory.
    """
    recipe = _trial(recipe_of(node))
    data = _noise(folder / f"images-{recipe.data.views[0].size}", recipe.data.views[0].size)
    out = folder / recipe.fingerprint()
    options = options.changed(quiet=True)
    try:
        with one_thread():
            if node.teacher is not None:
                recipe = with_overrides(recipe, {"objective.teacher": str(_teacher(node, folder, plan, options))})
            if node.kind == "finetune":
                run = finetune(recipe, init=None, data=data, out=out, options=options)
            else:
                run = pretrain(recipe, data=data, out=out, options=options)
    except (VitletError, RuntimeError, MemoryError):
        return None
    speeds = [row["images_per_second"] for row in run.metrics() if "images_per_second" in row][1:]
    return Rate(_busy(run, options) / median(speeds), folder_bytes(out)) if speeds else None


def _busy(run: Run, options: Options) -> float:
    """Share of wall-clock time spent computing: below 1 if other processes use the CPU too."""
    if not is_on_cpu(options):
        return 1.0
    made = run.environment
    return min(1.0, made.cpu_seconds / made.wall_seconds)


def _teacher(node: Node, folder: Path, plan: Plan, options: Options) -> Path:
    """The teacher itself if it is finished, else a trial of it."""
    assert node.teacher is not None
    found = next(n for n in plan.nodes.values() if n.folder == node.teacher)
    if found.is_finished:
        return found.folder
    recipe = _trial(recipe_of(found))
    size = recipe.data.views[0].size
    return pretrain(
        recipe, data=_noise(folder / f"images-{size}", size), out=folder / recipe.fingerprint(), options=options
    ).path


def _noise(folder: Path, size: int) -> Path:
    """Write images of noise in two classes, a quarter larger than the network's input."""
    if not folder.is_dir():
        side = size + size // 4
        draw = np.random.Generator(np.random.Philox(key=0))
        for split, count in (("train", _IMAGES), ("test", 4)):
            for i in range(count):
                place = folder / split / "ab"[i % 2]
                place.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png", compress_level=1)
    return folder


def in_words(cost: Cost, nodes: Sequence[Node]) -> tuple[float, int, str]:
    """Seconds, bytes and a remark for those of `nodes` that are not finished."""
    waiting = [n for n in nodes if not n.is_finished]
    unknown = sum(n.address in cost.unknown for n in waiting)
    return (
        sum(cost.seconds.get(n.address, 0.0) for n in waiting),
        sum(cost.bytes.get(n.address, 0) for n in waiting),
        f"{plural(unknown, 'run')} of unknown cost" if unknown else "",
    )
