"""Can a detector overfit a few images? The quickest check that data, losses, boxes and masks fit together.

A few training images form a data set of their own, for both training and validation, and are learned without
augmentation. An initial encoder is compared with the same encoder before its training, by the number of steps to the
same training loss.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitlet.augmentation import Fit
from vitlet.console import Teller
from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.index import Index
from vitlet.disk import read_json, write_file
from vitlet.distributed.world import World
from vitlet.environment import environment
from vitlet.errors import DataError
from vitlet.evaluation.compare import paired_difference
from vitlet.evaluation.detection.truth import ground_truth
from vitlet.jobs.images import opened
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import write_document
from vitlet.jobs.spread import among_ranks, require_sharing
from vitlet.jobs.training import finetune, resolved
from vitlet.run import Run, address_of
from vitlet.text import printable
from vitlet.units import Steps

RECIPE, STEPS, GOALS = "detection_micro", 600, {"bbox": 0.80, "segm": 0.70}
"""The recipe, its steps, and the AP50 of boxes and masks that counts as learned."""

_MOST_OBJECTS = 6
_SMOOTHED_ROWS = 3
_BY_HEART: dict[str, Any] = {"data.views.0.crop": Fit(), "data.views.0.flip": 0.0}


@among_ranks
def overfit(
    *,
    data: Path,
    out: Path,
    images: int = 8,
    steps: int = STEPS,
    init: str | None = None,
    seeds: int = 1,
    json: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Options = Options(),
) -> dict[str, Any]:
    """Overfit a detector to a few images and score it on them.

    Args:
        data: Images with boxes and outlines.
        out: Folder for the small data set and the runs; finished runs are reused.
        images: Number of images: the first training images, in the order of their paths, that have one to six objects,
            each with an outline, and no crowd.
        steps: Steps of each run.
        init: An encoder to compare with itself before its training.
        seeds: Runs from each start.
        json: File for a copy of `out/overfit.json`.
        settings: Changes to the recipe.
        options: Workers, device.

    Returns:
        `scores`: AP50 of boxes and masks of every run. `learned`: whether the first run from random weights reached the
        goals. `steps_to_loss`: with `init`, for each start and seed, and their paired difference.

    Raises:
        DataError: if there are too few suitable images.
        UsageError: for ranks that cannot share a batch.
    """
    began, teller = time.monotonic(), Teller(quiet=options.quiet)
    changes = _BY_HEART | {"budget.duration": Steps(n=steps)} | dict(settings or {})
    require_sharing(resolved(RECIPE, {"set": changes}).budget.batch_size)
    index = opened(data, options, teller)
    annotations = annotations_of(index)
    if annotations is None:
        raise DataError(f"{index.name} has no boxes", fix="give a folder in COCO's or Roboflow's format")
    ids = suitable(index, annotations, count=images)
    small = out / f"images-{address_of([index.fingerprint, ids.tolist()])[:12]}"
    if World.here().is_first:
        _write_set(index, annotations, ids, small)
    World.here().barrier(patient=True)  # until the images are there
    starts = {"random": None if init is None else 0} | ({} if init is None else {"pretrained": None})
    runs = {
        f"{name}-{seed}": finetune(
            RECIPE,
            init=init,
            keep_blocks=kept,
            data=small,
            out=out / f"{name}-{seed}",
            set=changes,
            seed=seed,
            options=options,
        )
        for seed in range(seeds)
        for name, kept in starts.items()
    }
    scores = {name: _ap50(run) for name, run in runs.items()}
    found: dict[str, Any] = {
        "kind": "overfit",
        "title": f"{index.name}: {images} images learned by heart by {RECIPE}, {steps} steps",
        "data": index.facts(),
        "files": [printable(index.path(int(i))) for i in ids],
        "n": images,
        "seeds": seeds,
        "scores": scores,
        "goals": GOALS,
        "learned": all((scores["random-0"].get(kind) or 0.0) >= goal for kind, goal in GOALS.items()),
        "wall_seconds_of_first_run": runs["random-0"].environment.wall_seconds,
        "wall_seconds": time.monotonic() - began,
        "machine": environment(),
    }
    if init is not None:
        found["init"] = printable(init)
        found["steps_to_loss"] = _race(runs, seeds=seeds)
    write_document(found, out / "overfit.json", json, teller=teller)
    shown = ", ".join(f"{kind} AP50 {100 * (value or 0):.1f}" for kind, value in scores["random-0"].items())
    minutes = found["wall_seconds_of_first_run"] / 60
    teller.say(f"{shown} after {minutes:.1f} min: {'learned' if found['learned'] else 'not learned'}")
    return found


def suitable(index: Index, annotations: Annotations, *, count: int) -> np.ndarray:
    """Return the first `count` training images that `overfit` can use.

    Raises:
        DataError: if there are fewer.
    """
    columns, found = annotations.columns, []
    for i in map(int, index.rows("train")):
        rows = annotations.objects(i)
        good = all(not columns["crowds"][r] and annotations.outline(r) is not None for r in rows)
        if good and 1 <= len(rows) <= _MOST_OBJECTS:
            found.append(i)
    if len(found) < count:
        raise DataError(
            f"{len(found)} training images of {index.name} can be learned by heart, {count} are wanted",
            why=f"They need one to {_MOST_OBJECTS} objects, all with outlines, and no crowd",
            fix=f"--images {max(1, len(found))}",
        )
    return np.array(found[:count])


def _write_set(index: Index, annotations: Annotations, ids: np.ndarray, root: Path) -> None:
    """Write the chosen images as both training and validation images; the folder's name identifies them."""
    content = ground_truth(index, annotations, ids)
    for number, (image, i) in enumerate(zip(content["images"], ids, strict=True)):
        image["file_name"] = f"{number}{Path(index.path(int(i))).suffix}"
        for split in ("train", "val"):
            write_file(root / split / image["file_name"], index.read(int(i)))
    for split in ("train", "val"):
        write_file(root / "annotations" / f"instances_{split}.json", json.dumps(content).encode())


def _ap50(run: Run) -> dict[str, float | None]:
    return {path.stem: read_json(path)["details"]["numbers"]["AP50"] for path in sorted(run.results.glob("*.json"))}


def _race(runs: Mapping[str, Run], *, seeds: int) -> dict[str, Any]:
    """Return the steps of each run to a training loss that all runs reached."""
    curves = {name: smoothed_losses(run.metrics()) for name, run in runs.items()}
    loss = max(min(value for _, value in curve) for curve in curves.values())
    steps = {
        start: [float(first_step(curves[f"{start}-{seed}"], loss)) for seed in range(seeds)]
        for start in ("pretrained", "random")
    }
    difference = paired_difference(steps["pretrained"], steps["random"])
    return {"loss": loss, **steps, "difference": difference.interval.to_json()}


def smoothed_losses(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return (step, mean of the last three logged losses) for each logged step."""
    known = [(int(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    return [
        (step, float(np.mean([value for _, value in known[max(0, i + 1 - _SMOOTHED_ROWS) : i + 1]])))
        for i, (step, _) in enumerate(known)
    ]


def first_step(curve: Sequence[tuple[int, float]], loss: float) -> int:
    """Return the first step at which a curve is at or below `loss`; the curve must reach it."""
    return next(step for step, value in curve if value <= loss)
