"""The whole workflow in one job: check, pre-train, compare with random weights on few labels, write the page.

All starts get the same labels, steps and seeds; only the initial weights differ. The verdict compares with the same
network before its pre-training, so that training is the only difference. Training from scratch, as the fine-tuning
recipe starts it, is shown too; it also differs in how weights and positions are drawn. The test images decide nothing
but the reported numbers.
"""

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitlet.choices import ProbeName
from vitlet.console import Teller
from vitlet.data.digits import write_digits
from vitlet.data.index import Index
from vitlet.data.names import absolute_data
from vitlet.data.subsets import divide, training_ids
from vitlet.distributed.world import World
from vitlet.environment import environment
from vitlet.errors import DataError, UsageError
from vitlet.evaluation.compare import Protocol, comparison
from vitlet.jobs.arms import Start, Terms, finetune_arms, finetunings, frozen_arms, untrained
from vitlet.jobs.images import Labelled, judged, opened, require_labels
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import write_document
from vitlet.jobs.side_by_side import meanwhile
from vitlet.jobs.spread import among_ranks, require_sharing
from vitlet.jobs.training import pretrain, resolved
from vitlet.recipe import Recipe
from vitlet.reports.page import write_page
from vitlet.run import Run, address_of
from vitlet.text import plural, printable
from vitlet.units import Images

_FEWEST_IMAGES = 32
"""Training images. As pre-training is as long for few as for many, one image would be seen 160,000 times."""
_LABELS_PER_CLASS = 20
_SMALL_PIXELS = 48
_DIGITS: dict[str, Any] = {
    "data.views.0.flip": 0.0,
    "data.views.0.crop.padding": 2,
    "data.mean": (0.5, 0.5, 0.5),
    "data.std": (0.5, 0.5, 0.5),
}
"""A mirrored digit is a different sign; a shift by an eighth of the image loses strokes; grey needs one statistic."""
_LONG, _SHORT = {"budget.duration": Images(n=64_000)}, {"budget.duration": Images(n=9_600)}
"""Pre-training and fine-tuning on digits: shorter than in the recipes, to finish in minutes on old processors too."""
_OWN = {"budget.duration": Images(n=160_000)}
"""Pre-training on other images: a quarter longer than in the recipes, and still ten minutes for the whole."""

_ARMS = (
    "Not pre-trained is the same network before its first step: weights and positions are drawn by the same rules. "
    "From scratch is what the recipe of fine-tuning draws, so that more differs than training."
)
_PROBES: dict[ProbeName, str] = {"knn": "20 nearest neighbours", "logistic": "Logistic regression"}


@among_ranks
def demo(
    *,
    data: Path | None = None,
    out: Path = Path("demo-run"),
    seeds: int = 3,
    num_labels: int | None = None,
    options: Options = Options(),
) -> Path:
    """Run the whole workflow and return the page.

    Args:
        data: Images; None uses the embedded digits.
        out: Folder for the runs, `comparison.json` and `report.html`; finished parts are reused, and parts for other
            images or settings are kept beside them.
        seeds: Fine-tuning runs of each start.
        num_labels: Training labels of the comparison; None: twenty per class.
        options: Workers, device, tolerance for unreadable images.

    Raises:
        DataError: for fewer than 32 training images, before anything is trained.
        VitletError: as the jobs that it runs.
    """
    if seeds < 1:
        raise UsageError(f"{seeds} seeds", why="A comparison needs at least one", fix="--seeds 3")
    began, teller = time.monotonic(), Teller(quiet=options.quiet)
    with World.here().first_per_host():
        source = write_digits(out / "digits") if data is None else data
    teller.say(f"1. Checking the data in {printable(source)}")
    index = opened(source, options, teller)
    if len(index.classes) > 1:  # they are compared
        index.require_every_class()
    verdicts = judged(index, options, teller)
    num_images = _enough(index, len(training_ids(index, verdicts.good)))
    images = Labelled(index, verdicts, *divide(index, verdicts.good))
    labels = few_labels(np.asarray(index.labels[images.train]))
    num_labels = num_labels if labels and num_labels is not None else labels
    long, short = (_DIGITS | _LONG, _DIGITS | _SHORT) if data is None else (_OWN, {})
    terms = Terms(source, out, tuple(range(seeds)), num_labels=num_labels, settings=short, options=options)
    can_compare = bool(num_labels and len(images.test))
    if can_compare:  # what cannot be fine-tuned is refused before minutes of pre-training
        require_labels(index, verdicts, images.train, images.test, images.split)
        terms = replace(terms, settings=_filled(terms.recipe, short, num_labels, teller))
        terms.steps(images, seed=0)
    pretraining = "mae_micro" if data is None or verdicts.widths[1] <= _SMALL_PIXELS else "mae_micro_crops"
    long = _filled(pretraining, long, num_images, teller)

    learned = resolved(pretraining, {"set": long})
    require_sharing(learned.budget.batch_size)

    teller.say(f"2. Pre-training {pretraining} on all training images, labels unseen")
    place = _place(out, learned, index, data=source)
    scratch = Start("scratch", "from scratch", None)
    # What does not need the pre-trained encoder runs beside it: two small trainings of one thread use two cores better.
    with meanwhile(finetunings([(scratch, terms)], teller)[0] if can_compare else (), options=options):
        run = pretrain(pretraining, data=source, out=place, options=options, set=long)
    if not can_compare:
        found_out = "Without labels of two classes nobody can say whether it helped; the page shows the health."
        return _page([run], out, teller, began, found_out, None)

    teller.say(
        f"3. Fine-tuning with {num_labels} labels, {plural(seeds, 'seed')}, from there, without it and from scratch"
    )
    trained = Start("pretrained", f"pre-trained ({pretraining})", run.path)
    before = replace(untrained([trained])[trained.name], name="untrained", title="not pre-trained")
    tuned = finetune_arms((trained, before, scratch), terms, teller)
    teller.say("4. Nearest neighbours and logistic regression on the frozen features of both")
    title, what = f"Fine-tuning with {num_labels} labels", {"n": len(images.test), "split": images.split}
    protocols = [
        Protocol("finetune", title, (tuned[0], tuned[1]), **what),
        Protocol("scratch", f"{title}, beside the usual start from scratch", (tuned[0], tuned[2]), **what),
    ]
    frozen = frozen_arms((trained, before), terms, images, teller, protocols=list(_PROBES))
    for probe, (first, second) in frozen.items():
        title = f"{_PROBES[probe]} on frozen features, {num_labels} labels"
        protocols.append(Protocol(probe, title, (first, second), **what))
    facts = {
        **index.facts(),
        "num_train": num_images,
        "num_labelled": num_labels,
        "num_test": len(images.test),
        "classes": [printable(name) for name in index.classes],
    }
    command = _command(data, seeds=seeds, num_labels=num_labels, options=options)
    found = comparison("Did pre-training help?", data=facts, protocols=protocols, commands=[command])
    found |= {"pretrained": run.path.name, "note": _ARMS, "machine": environment()}
    found |= {"wall_seconds": time.monotonic() - began}
    write_document(found, out / "comparison.json", teller=teller)
    runs = [run, *(Run(out / name) for arm in tuned for name in arm.runs)]
    return _page(runs, out, teller, began, found["verdict"]["sentence"], found)


def few_labels(labels: np.ndarray) -> int:
    """Return the number of labels: twenty per class, at most half of the smallest class; 0 without two classes."""
    counts = np.bincount(labels) if len(labels) else np.zeros(0, dtype=int)
    present = counts[counts > 0]
    if len(present) < 2:
        return 0
    return len(present) * min(_LABELS_PER_CLASS, max(1, int(present.min()) // 2))


def _enough(index: Index, num_images: int) -> int:
    """Return the number of training images.

    Raises:
        DataError: if they are too few.
    """
    if num_images < _FEWEST_IMAGES:
        raise DataError(
            f"{plural(num_images, 'training image')} for the whole workflow, {_FEWEST_IMAGES} are needed",
            where=index.name,
            why="Pre-training would see each of them thousands of times and learn them by heart, and a comparison on "
            "so few says nothing",
            fix=f"give at least {_FEWEST_IMAGES} images, or see how it works on the built-in digits: vitlet demo",
        )
    return num_images


def _filled(recipe: str, changes: dict[str, Any], num_images: int, teller: Teller) -> dict[str, Any]:
    """Return the changes, with the batch size reduced if there are fewer images than it takes."""
    usual = resolved(recipe, {"set": changes}).budget.batch_size
    if not 0 < num_images < usual:
        return changes
    teller.say(f"note: {recipe} takes {plural(num_images, 'image')} a step instead of {usual}; there are no more")
    return changes | {"budget.batch_size": num_images}


def _place(out: Path, recipe: Recipe, index: Index, *, data: Path) -> Path:
    """Return a folder that changes with recipe and images, so that runs on different data can lie side by side."""
    decides = [recipe.fingerprint(), index.fingerprint, absolute_data(data)]
    return out / f"pretrained-{address_of(decides)[:12]}"


def _command(data: Path | None, *, seeds: int, num_labels: int, options: Options) -> str:
    """Return the command line that gives the same numbers."""
    given = [] if data is None else ["--data", str(data)]
    words = ["vitlet", "demo", *given, "--seeds", str(seeds), "--num-labels", str(num_labels)]
    return shlex.join([*words, *options.words()])


def _page(
    runs: list[Run], out: Path, teller: Teller, began: float, sentence: str, found: dict[str, Any] | None
) -> Path:
    page = out / "report.html"
    if World.here().is_first:
        write_page(runs, out=page, comparison=found)
    teller.say(f"5. The page is written, after {time.monotonic() - began:.0f} s")
    teller.say(f"{sentence} The page: {printable(os.path.abspath(page))}")
    return page
