"""Images and trainings of a fraction of a second, and what is compared of two runs. Not a test itself."""

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from forked import on_ranks
from vitlet.cli import main
from vitlet.jobs.options import Options
from vitlet.run import Run
from vitlet.train import checkpoint

QUIET = Options(quiet=True, workers=0)
CLASSES = ("dark", "light")
TIMING = ("images_per_second", "data_wait")

SMALLER: dict[str, Any] = {
    "encoder.width": 24,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "budget.batch_size": 8,
    "budget.duration": {"unit": "steps", "n": 6},
    "budget.checkpoint_every": {"unit": "steps", "n": 3},
    "budget.probe_every": {"unit": "steps", "n": 3},
    "optimizer.warmup": {"unit": "steps", "n": 2},
}
"""Of any debug recipe."""
SHORT = {**SMALLER, "objective.decoder_width": 16, "objective.decoder_heads": 2}
"""Of `debug`: six steps, checkpoints after three and six."""
DETECTING: dict[str, Any] = {
    "encoder.width": 24,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "budget.batch_size": 4,
    "budget.duration": {"unit": "steps", "n": 4},
    "budget.checkpoint_every": {"unit": "steps", "n": 2},
    "optimizer.warmup": {"unit": "steps", "n": 1},
    "objective.score_threshold": 0.0,
}
"""Of `debug_detection`: four steps, checkpoints after two and four."""
TINY_DETECTOR: dict[str, Any] = {
    "encoder.image_size": 32, "encoder.patch_size": 8, "encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2,
    "data.views.0.size": 32, "data.evaluation.size": 32, "objective.window": 3, "objective.global_blocks": (1,),
    "objective.channels": 16, "objective.box_width": 16, "objective.proposals": 20, "objective.box_samples": 8,
    "objective.anchors": (4, 8, 16, 32, 64), "budget.batch_size": 2, "budget.log_every": 1,
}  # fmt: skip
"""Of `detection_micro`."""


def on_two_ranks(*words: object, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """A command line of vitlet on two ranks; `settings` change the recipe of a training, and `folder` is for notes."""
    changes = [f"--set={key}={json.dumps(value)}" for key, value in (settings or {}).items()]

    def body() -> None:
        assert main([*map(str, words), "--workers", "0", *changes]) == 0

    on_ranks(body, folder)


def pixels(key: int, *, light: bool) -> np.ndarray:
    """Noise of 32 × 32 pixels, uint8, in the lower or the upper half of the range."""
    draw = np.random.Generator(np.random.Philox(key=key))
    return (draw.integers(0, 120, (32, 32, 3)) + 130 * light).astype(np.uint8)


def write_image(path: Path, key: int, *, light: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(key, light=light)).save(path)


def write_images(root: Path, *, train: int, test: int = 0) -> Path:
    """So many images of each class, below `train/` and, where there are any, `test/`."""
    for code, name in enumerate(CLASSES):
        for split, count in (("train", train), ("test", test)):
            for i in range(count):
                key = 1000 * code + 500 * (split == "test") + i
                write_image(root / split / name / f"{i:02}.png", key, light=bool(code))
    return root


def write_public(root: Path, *, train: int, test: int) -> str:
    """The same images as `write_images` in the layout of CIFAR-100, and the name that commands take.

    torchvision compares check sums with the real ones: `torchvision.datasets.cifar.check_integrity` must let them pass.
    """
    base = root / "cifar-100-python"
    base.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        keys = [(1000 * code + 500 * (split == "test") + i, code) for code in (0, 1) for i in range(count)]
        rows = [pixels(key, light=bool(code)).transpose(2, 0, 1).ravel() for key, code in keys]
        (base / split).write_bytes(pickle.dumps({"data": np.stack(rows), "fine_labels": [code for _, code in keys]}))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CLASSES)}))
    return f"torchvision:cifar100@{root}"


def weights(run: Run) -> bytes:
    """Every tensor of the last checkpoint: objective and optimizer."""
    return (checkpoint.folders(run)[0] / checkpoint.STATE).read_bytes()


def rows(run: Run) -> list[dict[str, Any]]:
    """The metrics, without what the clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in run.metrics()]


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.metrics() if "loss" in row]


def stands(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file, the lock apart."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def interrupted(run: Run, out: Path) -> Run:
    """A copy as a kill after the first checkpoint leaves it: rows behind that checkpoint, and nothing finished."""
    shutil.copytree(run.path, out)
    copy = Run(out)
    shutil.rmtree(checkpoint.folders(copy)[0])
    for folder in (copy.encoder, copy.results, copy.analysis):
        shutil.rmtree(folder, ignore_errors=True)
    environment = json.loads((out / "environment.json").read_text())
    for key in ("finished", "data", "wall_seconds", "cpu_seconds"):
        del environment[key]
    (out / "environment.json").write_text(json.dumps(environment))
    return copy
