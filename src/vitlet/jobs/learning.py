"""Does every method learn here? The same images, the same protocols, one table.

Each micro recipe pre-trains on the same budget of image views. Then kNN, logistic regression and fine-tuning with few
labels compare the encoder with the same network before pre-training, with several seeds. A method that does not beat
its random weights is listed as it is.

A view counts by its area: MoCo-v3 sees each image twice, DINO in two whole and four quarter views, so three times.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vitlet.console import Teller
from vitlet.environment import environment
from vitlet.evaluation.compare import Arm, difference_of, mean_interval
from vitlet.jobs.arms import Start, Terms, finetune_grid, frozen_arms, untrained
from vitlet.jobs.images import Labelled
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import write_document
from vitlet.jobs.side_by_side import pretrain_side_by_side
from vitlet.jobs.spread import among_ranks
from vitlet.recipes import by_name
from vitlet.recipes.mae import TEACHING
from vitlet.run import Run
from vitlet.units import Images, Share

VIEWS = 64_000
PROBES = 10
"""Repetitions of a probe: each draws new labels, and costs seconds."""
_FAMILIES = {"vit": "finetune_micro", "convnet": "finetune_micro_convnet"}
"""Fine-tuning recipe for each kind of encoder."""
METHODS = ("mae_micro", "simmim_micro", "mocov3_micro", "dino_micro", "dmae_micro", "seed_micro")
TEACHER = "mae_micro_wide"
_TAUGHT = ("dmae_micro", "seed_micro")
_BESIDE = {"dmae_micro": "mae_micro"}
"""The method that a method extends, with which it is compared in addition to its random weights."""


@among_ranks
def learn(
    *,
    data: Path,
    out: Path,
    views: int = VIEWS,
    num_labels: int = 1_000,
    seeds: int = 3,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    settings: Mapping[str, Any] | None = None,
    options: Options = Options(),
    json: Path | None = None,
) -> dict[str, Any]:
    """Pre-train with every method, evaluate each, and write the table.

    Args:
        data: Labelled images of about 32 pixels with a test split.
        out: Folder for the runs; finished ones are reused.
        views: Image views per method in pre-training, counted with repetition and by area; the teacher gets
            three times as many.
        num_labels: Training labels for the probes and for fine-tuning, drawn anew for each seed.
        seeds: Repetitions of fine-tuning; probes are repeated `PROBES` times, and pre-training is done once.
        seed: Seed of pre-training and of the first repetition; the others count on from it. Another one is a test on
            fresh draws, which saw neither the labels nor the weights that a recipe was chosen with.
        methods: Recipes.
        settings: Changes to the fine-tuning recipes.
        options: Workers, device, tolerance for unreadable images.
        json: File for a copy of `out/learning.json`.

    Returns:
        The table: for each method and protocol the mean, interval, and difference from the untrained network.
    """
    teller, began = Teller(quiet=options.quiet), time.monotonic()
    images = Labelled.open(data, options, teller)
    terms = Terms(
        data=data,
        out=out / "finetuned",
        seeds=tuple(range(seed, seed + seeds)),
        num_labels=num_labels,
        settings=settings or {},
        options=options,
    )
    terms.steps(images, seed)  # refuses more labels than there are, before anything is pre-trained
    taught = {method: {"objective.teacher": os.path.abspath(out / TEACHER)} for method in methods if method in _TAUGHT}
    names = [*([TEACHER] if taught else []), *reversed(methods)]  # MAE, the shortest, last: then the cores end together
    lengths = {name: _length(name, views * (TEACHING if name == TEACHER else 1)) for name in names}
    recipes = {out / name: (name, lengths[name] | {"budget.seed": seed} | taught.get(name, {})) for name in names}
    pretrain_side_by_side(recipes, data=data, num_images=len(images.train), options=options, teller=teller)
    starts = [Start(method, method, out / method) for method in methods]
    like = untrained(starts)
    families = [
        (kin + list(dict.fromkeys(like[start.name] for start in kin)), dataclasses.replace(terms, recipe=recipe))
        for family, recipe in _FAMILIES.items()
        if (kin := [start for start in starts if by_name(start.name).encoder.kind == family])
    ]
    randoms = {name: random.name for name, random in like.items()}
    protocols = {name: _rows(arms, randoms) for name, arms in _judged(families, images, teller).items()}
    index, n = images.index, len(images.test)
    cost = {name: Run(out / name).environment.cpu_seconds for name in names}
    found = {
        "kind": "learning",
        "title": f"{index.name}: {views:,} image views, {num_labels:,} labels, {n:,} {images.split} images",
        "protocols": protocols,
        "pretraining_cpu_seconds": {method: cost[method] for method in methods},
        "teacher": {"name": TEACHER, "views": views * TEACHING, "cpu_seconds": cost[TEACHER]} if taught else None,
        "pretraining_seeds": 1,
        "data": index.facts(),
        "n": n,
        "seeds": seeds,
        "seed": seed,
        "wall_seconds": time.monotonic() - began,
        "machine": environment(),
    }
    write_document(found, out / "learning.json", json, teller=teller)
    teller.console.print(_table(found))
    return found


def _judged(
    families: Sequence[tuple[Sequence[Start], Terms]], images: Labelled, teller: Teller
) -> dict[str, list[Arm]]:
    cells = [(start, terms) for starts, terms in families for start in starts]
    judged = {"finetune": finetune_grid(cells, teller), "knn": [], "logistic": []}
    for starts, terms in families:
        often = dataclasses.replace(terms, seeds=tuple(range(terms.seeds[0], terms.seeds[0] + PROBES)))
        for name, arms in frozen_arms(starts, often, images, teller, protocols=["knn", "logistic"]).items():
            judged[name] += arms
    return judged


def _length(method: str, views: int) -> dict[str, Any]:
    """Return the settings for a duration of this many views, without probes on the way."""
    seen = by_name(method).data.views
    whole = sum((view.size / seen[0].size) ** 2 for view in seen)
    return {"budget.duration": Images(n=round(views / whole)), "budget.probe_every": Share(n=1)}


def _rows(arms: list[Arm], like: Mapping[str, str]) -> dict[str, Any]:
    """Return mean and interval of each arm; for those in `like`, also the lead over that arm and the one it extends."""
    known = {arm.name: arm for arm in arms}
    rows: dict[str, Any] = {arm.name: _alone(arm) for arm in arms}
    for arm in arms:
        if arm.name not in like:
            continue
        random, row = known[like[arm.name]], rows[arm.name]
        base = rows[random.name]
        row["random"] = random.name
        row["difference"] = difference_of(arm, random).interval.to_json()
        least = row["mean"] if arm.once else row["low"]
        row["above_random"] = least is not None and base["high"] is not None and least > base["high"]
        beside = known.get(_BESIDE.get(arm.name, ""))
        if beside is not None:
            row["beside"] = {"name": beside.name, **difference_of(arm, beside).interval.to_json()}
    return rows


def _alone(arm: Arm) -> dict[str, Any]:
    found = {"title": arm.title, "values": list(arm.values), **mean_interval(arm.values).to_json()}
    return found | {"once": True} if arm.once else found


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=found["title"])
    protocols = list(found["protocols"])
    for column in ("start", *protocols, "above random"):
        table.add_column(column)
    for name in found["protocols"][protocols[0]]:
        rows = [found["protocols"][protocol][name] for protocol in protocols]
        judged = "difference" in rows[0]
        above = sum(row.get("above_random", False) for row in rows)
        ends = ["" if row["high"] is None else f" ± {100 * (row['high'] - row['mean']):.1f}" for row in rows]
        shown = [f"{100 * row['mean']:.1f}{end}" for row, end in zip(rows, ends, strict=True)]
        table.add_row(rows[0]["title"], *shown, f"{above} of {len(rows)}" if judged else "")
    return table
