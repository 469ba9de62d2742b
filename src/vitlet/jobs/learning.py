"""Does every method learn here? The same images, the same random start, the same protocols, one table.

Each micro recipe pre-trains on the same budget of image views; then kNN, logistic regression and fine-tuning with few
labels judge the frozen or trained encoder beside random weights, with several seeds. What does not beat random weights
stands in the table as it is.

A view counts by its area: MoCo-v3 sees each image twice, DINO in two whole and four quarter views, so three times.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vitlet.data.index import open_index
from vitlet.evaluate.compare import Arm, mean_interval, paired_difference
from vitlet.jobs.comparing import Labelled, Start, Terms, finetune_arms, frozen_arms
from vitlet.jobs.material import divide, judge
from vitlet.jobs.options import Options
from vitlet.jobs.training import pretrain
from vitlet.recipes import by_name
from vitlet.run import environment, read_json, write_json
from vitlet.text import printable
from vitlet.train.log import Teller
from vitlet.units import Images, Share

VIEWS = 64_000
METHODS = ("mae_micro", "simmim_micro", "mocov3_micro", "dino_micro", "dmae_micro")
TEACHER = "mae_micro_wide"
_NEEDS_TEACHER = ("dmae_micro",)


def learn(
    *,
    data: Path,
    out: Path,
    views: int = VIEWS,
    num_labels: int = 1_000,
    seeds: int = 3,
    methods: Sequence[str] = METHODS,
    file: Path | None = None,
) -> dict[str, Any]:
    """Pre-train by every method, judge them, and write the table.

    Args:
        data: Labelled images near 32 pixels with a test split.
        out: Folder of the runs; finished ones are used again.
        views: Image views of each method while pre-training, counted with repetition and by area; those of the
            teacher are as many again.
        num_labels: Of the probes and of fine-tuning, drawn anew for each seed.
        seeds: Repetitions of each protocol; pre-training is done once.
        methods: Recipes.
        file: Where the table goes beside `out/learning.json`.

    Returns:
        The table: for each method and protocol mean, interval, and difference to random weights.
    """
    teller, began = Teller(), time.monotonic()
    index = open_index(data)
    train, test, split = divide(index, judge(index, Options(), teller))
    runs = {}
    for method in methods:
        changes: dict[str, Any] = _length(method, views)
        if method in _NEEDS_TEACHER:
            teacher = pretrain(TEACHER, data=data, out=out / TEACHER, set=_length(TEACHER, views))
            changes["objective.teacher"] = str(teacher.path.absolute())
        runs[method] = pretrain(method, data=data, out=out / method, set=changes)
    starts = [Start(name, name, run.path) for name, run in runs.items()] + [Start("random", "random weights", None)]
    terms = Terms(data=data, out=out / "finetuned", seeds=tuple(range(seeds)), num_labels=num_labels, settings={})
    images = Labelled(index, train, test, split)
    arms = {
        "finetune": finetune_arms(starts, terms, teller),
        "knn": frozen_arms(starts, terms, images, protocol="knn"),
        "logistic": frozen_arms(starts, terms, images, protocol="logistic"),
    }
    cost = {name: read_json(run.path / "environment.json")["cpu_seconds"] for name, run in runs.items()}
    found = {
        "kind": "learning",
        "title": f"{index.name}: {views:,} image views, {num_labels:,} labels, {len(test):,} {split} images",
        "protocols": {name: _rows(columns) for name, columns in arms.items()},
        "pretraining_cpu_seconds": cost,
        "data": {"name": index.name, "fingerprint": index.fingerprint},
        "n": len(test),
        "seeds": seeds,
        "wall_seconds": time.monotonic() - began,
        "machine": environment(),
    }
    for path in (out / "learning.json", *([file] if file else [])):
        write_json(path, found)
        teller.say(f"written: {printable(path)}")
    teller.console.print(_table(found))
    return found


def _length(method: str, views: int) -> dict[str, Any]:
    """The duration that amounts to so many views, without looks at the features on the way."""
    seen = by_name(method).data.views
    whole = sum((view.size / seen[0].size) ** 2 for view in seen)
    return {"budget.duration": Images(n=round(views / whole)), "budget.probe_every": Share(n=1)}


def _rows(arms: list[Arm]) -> dict[str, Any]:
    *methods, random = arms
    rows = {}
    for arm in arms:
        mean = mean_interval(arm.values)
        rows[arm.name] = {"values": list(arm.values), "mean": mean.mean, "low": mean.low, "high": mean.high}
    base = rows[random.name]
    for arm in methods:
        difference, row = paired_difference(arm.values, random.values), rows[arm.name]
        row["difference"] = {"mean": difference.mean, "low": difference.low, "high": difference.high}
        apart = row["low"] is not None and row["low"] > base["high"]
        row["above_random"] = bool(apart)
    return rows


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=found["title"])
    protocols = list(found["protocols"])
    for column in ("start", *protocols, "above random"):
        table.add_column(column)
    for name in found["protocols"][protocols[0]]:
        rows = [found["protocols"][protocol][name] for protocol in protocols]
        above = sum(row.get("above_random", False) for row in rows)
        shown = [f"{100 * row['mean']:.1f} ± {100 * ((row['high'] or row['mean']) - row['mean']):.1f}" for row in rows]
        table.add_row(name, *shown, "" if name == "random" else f"{above} of {len(rows)}")
    return table
