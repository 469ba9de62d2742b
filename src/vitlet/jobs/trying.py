"""Settings tried on one data set: each a training of its own, side by side, or found from an earlier time."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.disk import read_json, remove_folder
from vitlet.distributed.world import World
from vitlet.errors import NonFiniteError
from vitlet.jobs.options import Options
from vitlet.jobs.side_by_side import Training, train_side_by_side
from vitlet.jobs.suites import Entry
from vitlet.jobs.training import finetune
from vitlet.recipe import Recipe
from vitlet.run import Run, address_of


@dataclass(frozen=True)
class Candidate:
    """An encoder to transfer."""

    name: str
    """Unique; used in file names."""
    title: str
    source: str | None
    """None: random weights, drawn anew for each seed."""
    digest: str
    """Digest of the encoder as a function."""
    image_size: int | None


@dataclass(frozen=True)
class Case:
    """An encoder and the data set it is transferred to."""

    entry: Entry
    start: Candidate
    index: Index
    num_images: Mapping[bool, int]
    """Training images, and those that are left of them when some are held out."""


@dataclass(frozen=True)
class Trainings:
    """Settings shared by all trainings of one transfer."""

    out: Path
    seeds: tuple[int, ...]
    select_on_test: bool
    options: Options
    teller: Teller


@dataclass(frozen=True)
class Score:
    """The result of one training."""

    value: float | None
    """None if it diverged."""
    n: int
    split: str
    labels: str
    wall_seconds: float
    cpu_seconds: float
    run: str


def scores(recipes: Sequence[Recipe], case: Case, terms: Trainings, *, hold_out: bool) -> list[Score]:
    """Train every recipe, or reuse its finished training, and return the scores in order.

    Args:
        recipes: The settings.
        case: What is trained on what.
        terms: What all trainings share.
        hold_out: Whether a part of the training images is kept back, to score on.

    Raises:
        VitletError: of a training that failed; one that diverged is a score without a value.
    """
    trainings = [_training(recipe, case, terms, hold_out=hold_out) for recipe in recipes]
    wanted = [training for training in trainings if not _has_diverged(training.run)]
    title = f"{case.entry.name}, {case.start.title}"
    train_side_by_side(wanted, title=title, options=terms.options, teller=terms.teller)
    for recipe, training in zip(recipes, trainings, strict=True):
        if training in wanted and _has_diverged(training.run):
            terms.teller.say(f"{title}: {words(recipe)} diverged")
        if training.run.checkpoints.is_dir() and World.here().is_first:  # a grid leaves many; the model folder stays
            remove_folder(training.run.checkpoints)
    return [_score(training.run) for training in trainings]


def _training(recipe: Recipe, case: Case, terms: Trainings, *, hold_out: bool) -> Training:
    entry, start = case.entry, case.start
    known_by = {
        "recipe": recipe.fingerprint(),
        "data": case.index.fingerprint,
        "encoder": start.digest,
        "hold_out": hold_out,
    }
    address, place = address_of(known_by)[:16], terms.out / "runs"
    done = [path for path in sorted(place.glob(f"{entry.name}-*-{address}")) if Run(path).is_finished]
    run = Run(done[0] if done else place / f"{entry.name}-{start.name}-{address}")
    steps = recipe.budget.steps(case.num_images[hold_out])
    return Training(run, steps, _train_one, (recipe, start.source, entry.data, run.path, hold_out, terms.options))


def _train_one(recipe: Recipe, init: str | None, data: str, out: Path, hold_out: bool, options: Options) -> None:
    """Train; one that diverges leaves a file that says so, and is no error."""
    with contextlib.suppress(NonFiniteError):
        finetune(recipe, init=init, data=data, out=out, hold_out=hold_out, options=options.changed(quiet=True))


def _has_diverged(run: Run) -> bool:
    return not run.is_finished and (run.path / "nonfinite.json").is_file()


def _score(run: Run) -> Score:
    name, made = run.path.name, run.environment
    if not run.is_finished:
        return Score(None, 0, "", "", wall_seconds=0.0, cpu_seconds=0.0, run=name)
    result = read_json(run.results / "top1.json")
    labels = result["protocol"].removeprefix("fine-tuning, ")
    cost = {"wall_seconds": made.wall_seconds, "cpu_seconds": made.cpu_seconds}
    return Score(result["value"], result["n"], result["split"], labels, **cost, run=name)


def words(recipe: Recipe) -> str:
    """Describe a setting: `learning rate 0.001, 100 epochs, layer decay 0.75`."""
    length = recipe.budget.duration
    return (
        f"learning rate {recipe.optimizer.base_lr:g}, {length.n:g} {length.unit}, "
        f"layer decay {recipe.optimizer.layer_decay:g}"
    )
