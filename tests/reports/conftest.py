"""Synthetic run directories."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitlet.disk import write_json
from vitlet.evaluation.compare import Arm, Protocol, comparison
from vitlet.rng import derive
from vitlet.run import Run

VERBS = {"mae": "pretrain", "supervised": "finetune"}


def make_run(path: Path, *, kind: str = "mae", seed: int = 0, steps: int = 960, full: bool = True) -> Run:
    """A run as training leaves it; `full=False` leaves the recipe alone."""
    draw = np.random.Generator(np.random.Philox(key=derive("report", path.name, seed)))
    recipe = {
        "name": {"mae": "mae_micro", "supervised": "finetune_micro"}.get(kind, "other"),
        "data": {
            "views": [{"size": 32, "crop": {"kind": "shift", "padding": 4}, "flip": 0.0}],
            "mean": [0.5, 0.5, 0.5],
        },
        "encoder": {"image_size": 32, "patch_size": 4, "width": 96, "depth": 6, "heads": 6},
        "objective": {"method": kind, "mask_ratio": 0.75} if kind == "mae" else {"method": kind, "smoothing": 0.1},
        "optimizer": {"kind": "adamw", "base_lr": 1.5e-3, "betas": [0.9, 0.95]},
        "budget": {"duration": {"kind": "epochs", "n": 60}, "batch_size": 256, "precision": "bf16", "seed": seed},
    }
    write_json(path / "recipe.json", recipe)
    if not full:
        return Run(path)
    write_json(
        path / "environment.json",
        {
            "command": f"vitlet {VERBS[kind]} {recipe['name']} --data digits --out {path.name}",
            "python": "3.11.2", "packages": {"vitlet": "0.1.0", "torch": "2.10.0", "timm": "1.0.24"},
            "platform": "Linux x86_64", "processor": "Intel(R) Xeon(R) Platinum 8581C", "cores": 2,
            "started": "2026-11-22T10:00:00Z", "finished": "2026-11-22T10:03:12Z",
            "wall_seconds": 192.4, "cpu_seconds": 371.0,
        },
    )  # fmt: skip
    rows = []
    for step in range(10, steps + 1, 2):
        epoch = 60 * step / steps
        start, end = (1.0, 0.38) if kind == "mae" else (2.30, 0.95)
        loss = end + (start - end) * math.exp(-epoch / 14) + float(draw.normal(0, 0.02 * start))
        row: dict[str, Any] = {
            "step": step, "epoch": round(epoch, 4), "loss": None if step == 400 else round(loss, 4), "lr": 1e-3,
            "grad_norm": 0.9, "images_per_second": 2100.0 + float(draw.normal(0, 30)), "data_wait": 0.01,
        }  # fmt: skip
        if kind == "mae" and step % 80 == 0:
            share = epoch / 60
            row["probe"] = {
                "knn_top1": round(0.35 + 0.42 * share**0.6, 4), "feature_std": round(0.4 + 0.5 * share, 4),
                "effective_rank": round(9 + 22 * share**0.7, 3), "verdict": "learning",
                "advice": "learning: loss 1.0 at first, 0.4 now.",
            }  # fmt: skip
        rows.append(row)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(
        path / "results" / "knn.json",
        {
            "metric": "top1", "value": round(0.71 + 0.01 * seed, 3), "n": 1000, "seed": seed, "split": "test",
            "protocol": "kNN, k = 20", "data": {"name": "digits", "fingerprint": "5f1d0c3a77e2"},
            "recipe": "0123456789ab", "command": f"vitlet probe {path.name} --data digits --protocol knn",
            "wall_seconds": 3.1, "hardware": {"processor": "Xeon"}, "details": {},
        },
    )  # fmt: skip
    if kind == "mae":
        _add_analysis(path, draw)
    return Run(path)


def _add_analysis(path: Path, draw: np.random.Generator) -> None:
    yy, xx = np.mgrid[:32, :32]
    centres = draw.uniform(8, 24, size=(8, 3, 2))
    blobs = np.exp(-(((xx - centres[..., 0, None, None]) ** 2 + (yy - centres[..., 1, None, None]) ** 2) / 40))
    images = (255 * np.moveaxis(blobs, 1, -1)).astype(np.uint8)
    hidden = np.kron(draw.random((8, 8, 8)) < 0.75, np.ones((4, 4))).astype(bool)[..., None]
    masked = np.where(hidden, np.uint8(128), images)
    rebuilt = np.where(hidden, (0.8 * images + 20).astype(np.uint8), images)
    (path / "analysis").mkdir()
    np.savez(path / "analysis" / "reconstructions.npz", input=images, masked=masked, reconstruction=rebuilt)
    words = {"caption": "Eight test images, 75 % of the patches removed.", "statistics": "predicted"}
    write_json(path / "analysis" / "reconstructions.json", words)
    check = {
        "name": "digits", "notes": [], "num_images": 5000, "num_good": 4998, "num_bad": 2,
        "bad": [["train/3/0017.png", "truncated"], ["train/4/x.jpg", "not an image"]],
        "num_warnings": 0, "warnings": [], "modes": {"PNG L": 4990, "PNG RGB": 8},
        "heights": [28, 28, 28], "widths": [28, 28, 28],
        "duplicates": {"count": 1, "examples": [["train/1/0004.png", "train/1/0002.png"]]},
        "near_duplicates": {"count": 0, "examples": []}, "leaks": {"count": 0, "examples": []},
        "near_leaks": {"count": 0, "examples": []},
        "balance": {"train": {str(i): 400 for i in range(10)}, "test": {str(i): 100 for i in range(10)}},
        "lost_classes": [],
    }  # fmt: skip
    write_json(path / "data_check.json", check)


def make_comparison(answer: str = "yes") -> dict[str, Any]:
    """A comparison as the demo writes it, over three seeds, that comes out as `answer`."""
    pretrained, scratch = {
        "yes": ((0.586, 0.602, 0.591), (0.287, 0.301, 0.29)),
        "no": ((0.457, 0.462, 0.449), (0.497, 0.503, 0.499)),
        "undecided": ((0.497, 0.512, 0.499), (0.489, 0.513, 0.496)),
    }[answer]

    def arms(*values: tuple[float, ...]) -> tuple[Arm, Arm]:
        titles = (("pretrained", "MAE pre-training"), ("scratch", "random init"))
        first, second = (
            Arm(name, title, v, tuple(range(len(v))), (41.0,) * len(v))
            for (name, title), v in zip(titles, values, strict=True)
        )
        return first, second

    made = comparison(
        "Did pre-training help?",
        data={
            "name": "digits", "fingerprint": "5f1d0c3a77e2", "num_train": 4000, "num_labelled": 200,
            "num_test": 1000, "classes": [str(i) for i in range(10)],
        },
        protocols=[
            Protocol("finetune", "Fine-tuning with 200 labels", arms(pretrained, scratch), n=1000),
            Protocol("knn", "kNN on frozen features", arms((0.71,), (0.44,)), n=1000),
            Protocol("logistic", "Logistic probe on frozen features", arms((0.782,), (0.611,)), n=1000),
        ],
        commands=["vitlet demo --out demo"],
    )  # fmt: skip
    for arm in made["protocols"][0]["arms"]:
        arm["runs"] = [f"finetune-{arm['name']}-{seed}" for seed in arm["seeds"]]
    return made


def make_demo(folder: Path) -> list[Run]:
    """The demo's runs: one of pre-training, three of fine-tuning from it, three from scratch."""
    runs = [make_run(folder / "pretrain")]
    for arm in ("pretrained", "scratch"):
        runs += [
            make_run(folder / f"finetune-{arm}-{seed}", kind="supervised", seed=seed, steps=240) for seed in range(3)
        ]
    return runs


@pytest.fixture
def run_maker() -> Callable[..., Run]:
    return make_run


@pytest.fixture
def demo_maker() -> Callable[[Path], list[Run]]:
    return make_demo


@pytest.fixture
def comparison_maker() -> Callable[..., dict[str, Any]]:
    return make_comparison
