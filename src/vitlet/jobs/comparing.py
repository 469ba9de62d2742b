"""Did pre-training help, and with how many labels? Compares runs, random weights and a supervised encoder."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from vitlet.console import Teller
from vitlet.errors import DataError, UsageError
from vitlet.evaluation.compare import Arm
from vitlet.evaluation.curves import Curve, Point, Question, document
from vitlet.jobs.arms import Start, Terms, finetune_grid, frozen_grid, untrained
from vitlet.jobs.images import Labelled
from vitlet.jobs.judging import (
    Judging,
    Tuning,
    arm_names,
    budget_of,
    facts_of,
    publish,
    require_startable,
    start_facts,
)
from vitlet.jobs.options import Options
from vitlet.jobs.spread import among_ranks
from vitlet.text import plural
from vitlet.weights.source import load_encoder

FRACTIONS = (0.01, 0.1, 1.0)


@among_ranks
def compare(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    label_fractions: Sequence[float] = FRACTIONS,
    supervised: str | os.PathLike[str] | None = None,
    options: Options = Options(),
    **tuning: Unpack[Tuning],
) -> dict[str, Any]:
    """Fine-tune from every run, from random weights and from a supervised encoder, with growing shares of the labels.

    Args:
        runs: Runs, model folders or timm:NAME@FILE; at least one.
        data: Labelled images. Without a `test` or `val` split, a fifth of the training images is held out.
        out: Folder of `runs/`, `curves.json`, `report.html` and `figures/`; finished runs are reused.
        label_fractions: Shares of the labelled training images, each drawn evenly over classes.
        supervised: An encoder trained with labels, to compare with.
        options: Workers, device, tolerance for unreadable images.
        **tuning: `recipe`, `seeds`, `epochs`, `batch_size`, and `set` for dotted keys.

    Returns:
        The document; each of its questions has a sentence and an answer: yes, no or undecided.

    Raises:
        DataError: if a fraction has fewer labels than there are classes, or the images are not fit for a comparison.
        UsageError: if a start does not fit the recipe; raised before any training.
    """
    judging, teller, began = Judging.of(tuning, options), Teller(quiet=options.quiet), time.monotonic()
    data, out = Path(data), Path(out)
    if not runs:
        raise UsageError("no run to compare", fix="vitlet compare RUN --data DATA --out DIR")
    starts, counterpart = _line_up(runs, supervised, judging.terms(data=data, out=out))
    images = Labelled.open(data, judging.options, teller)
    terms = {
        label_count(images, fraction): judging.terms(
            data=data, out=out, subset=None if fraction == 1 else repr(fraction)
        )
        for fraction in sorted(label_fractions)
    }
    counts = list(terms)
    shown = ", ".join(f"{count:,}" for count in counts)
    teller.say(f"{plural(len(starts), 'start')}, {shown} labels, {plural(judging.seeds, 'seed')}")
    cells = [(start, terms[count]) for count in counts for start in starts]
    arms = finetune_grid(cells, teller)
    tuned = points_of(arms, counts, total=len(images.train))
    teller.say("20 nearest neighbours on the frozen features of all")
    frozen = frozen_grid(cells, images, teller, protocols=["knn"])
    probed = points_of(frozen["knn"], counts, total=len(images.train))
    n, split = len(images.test), images.split
    found = document(
        "compare",
        title="Did pre-training help?",
        axis={"label": "labelled training images", "scale": "log"},
        data=facts_of(images),
        starts=[start_facts(start) for start in starts],
        curves=[
            Curve("finetune", "Fine-tuning", tuned, n=n, split=split),
            Curve("knn", "20 nearest neighbours on frozen features", probed, n=n, split=split),
        ],
        questions=[q for point in tuned for q in _questions(point, counterpart, n=n, split=split)],
        budget=budget_of(terms[counts[0]]),
    )
    seen = [start.title for start in starts if _has_seen_labels(start, images)]
    if seen:
        found["note"] = (
            f"{' and '.join(seen)} learned from labels of these images before: beside few labels that is what more "
            "labels could give, not an alternative to them."
        )
    return publish(found, out, teller, began)


def _has_seen_labels(start: Start, images: Labelled) -> bool:
    """Return whether the encoder comes from a classifier that was trained on these same images."""
    if start.is_random:
        return False
    saved = load_encoder(start.source or "")
    return saved.classifier is not None and saved.facts.get("data_fingerprint") == images.index.fingerprint


def label_count(images: Labelled, fraction: float) -> int:
    """Return the number of labels in a share of the training images.

    Raises:
        UsageError: for a share outside (0, 1].
        DataError: if there are fewer labels than classes.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"label fraction {fraction:g}", why="It is a share of all labels", fix="above 0, up to 1")
    total, num_classes = len(images.train), len(np.unique(images.index.labels[images.train]))
    count = round(fraction * total)
    if count < num_classes:
        least = np.ceil(1e4 * num_classes / total) / 1e4
        raise DataError(
            f"label fraction {fraction:g} is {plural(count, 'label')} for {num_classes} classes",
            where=images.index.name,
            why=f"There are {plural(total, 'labelled training image')}, and every class needs one",
            fix=f"--label-fractions {least:g} or more",
        )
    return count


def _line_up(
    runs: Sequence[str | os.PathLike[str]], supervised: str | os.PathLike[str] | None, terms: Terms
) -> tuple[list[Start], dict[str, str]]:
    """Return random weights, the supervised encoder and the runs, and the counterpart of each trained start."""
    sources = [os.fspath(run) for run in runs]
    names = arm_names(sources)
    if supervised is not None:
        sources, names = [os.fspath(supervised), *sources], ["supervised", *names]
    for source in sources:
        require_startable(load_encoder(source), terms.resolved(0), source)
    titles = {"supervised": "supervised pre-training"}
    trained = [Start(name, titles.get(name, name), source) for name, source in zip(names, sources, strict=True)]
    counterpart = untrained(trained)
    return [*dict.fromkeys(counterpart.values()), *trained], {name: like.name for name, like in counterpart.items()}


def points_of(arms: Sequence[Arm], counts: Sequence[int], *, total: int) -> tuple[Point, ...]:
    """Group the arms of a grid, ordered by count, into points over the number of labels."""
    width = len(arms) // len(counts)
    return tuple(
        Point(
            float(count),
            f"{plural(count, 'label')} ({100 * count / total:.3g} %)",
            tuple(arms[i * width : (i + 1) * width]),
        )
        for i, count in enumerate(counts)
    )


def _questions(point: Point, counterpart: Mapping[str, str], *, n: int, split: str) -> list[Question]:
    """At one number of labels: does each run help, and is it better than the supervised start and the first run?"""
    arms = {arm.name: arm for arm in point.arms}
    runs = [arm for name, arm in arms.items() if name in counterpart and name != "supervised"]
    pairs = [(f"Did {arm.title} help", arm, arms[counterpart[arm.name]]) for arm in runs]
    if "supervised" in arms:
        pairs += [(f"Is {arm.title} better than supervised pre-training", arm, arms["supervised"]) for arm in runs]
    pairs += [(f"Is {arm.title} better than {runs[0].title}", arm, runs[0]) for arm in runs[1:]]
    where = f"fine-tuning with {point.label}"
    return [Question(f"{text}, with {point.label}?", where, a, b, n, split) for text, a, b in pairs]
