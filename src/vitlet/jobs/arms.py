"""Comparison of several starts under the same protocols: labels, steps and seeds are equal, initial weights differ.

The folder of a fine-tuning run is named after everything that decides its numbers: the recipe, the images, the initial
encoder and the teacher (by content, not by path), what is kept of that encoder, and the labels. A finished run is
therefore reused exactly when a new one would give the same result.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vitlet.choices import ProbeName
from vitlet.console import Teller
from vitlet.data.names import absolute_data
from vitlet.disk import read_json
from vitlet.evaluation.compare import Arm
from vitlet.jobs.evaluation import Probing, probe_encoder
from vitlet.jobs.images import Labelled
from vitlet.jobs.launch import RANDOM_START
from vitlet.jobs.material import chosen_ids, pick_device, start_content
from vitlet.jobs.options import Options
from vitlet.jobs.side_by_side import Training, results_side_by_side, train_side_by_side
from vitlet.jobs.training import finetune, resolved
from vitlet.nn.convnet import ConvEncoder, new_encoder
from vitlet.recipe import Recipe
from vitlet.run import Run, address_of
from vitlet.units import steps_per_epoch
from vitlet.weights.content import teacher_content
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder

UNTRAINED = "random weights"
"""Title of the starts that `untrained` returns."""


@dataclass(frozen=True)
class Start:
    """The initial weights of fine-tuning or of a probe."""

    name: str
    """Used in folder names."""
    title: str
    source: str | Path | None
    """A run, a model folder or timm:NAME@FILE; None: random weights as the recipe draws them."""
    keep_blocks: int | None = None
    """As for `finetune`; 0 is the network of `source` as initialised before its training."""

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn anew for each seed."""
        return self.source is None or self.keep_blocks == 0


def untrained(starts: Sequence[Start]) -> dict[str, Start]:
    """Return for each start its untrained counterpart, so that only training differs; similar starts share one.

    The counterpart is the same network with weights and positions drawn by the same rules: with few labels,
    initialisation may change the result of fine-tuning more than pre-training does (`docs/decisions/0007`).
    """
    shared: dict[str, Start] = {}
    like: dict[str, str] = {}
    for start in starts:
        assert start.source is not None
        content = like[start.name] = start_content(start.source, 0)
        if content not in shared:
            shared[content] = _before_training(start, number=len(shared) + 1)
    if len(shared) > 1:
        firsts = {content: next(s.title for s in starts if like[s.name] == content) for content in shared}
        shared = {c: replace(s, title=f"{s.title} like {firsts[c]}") for c, s in shared.items()}
    return {name: shared[content] for name, content in like.items()}


def _before_training(start: Start, *, number: int) -> Start:
    is_convnet = isinstance(load_encoder(start.source or "").encoder, ConvEncoder)  # the recipe has its shape
    name = f"{RANDOM_START}-{number}"
    return Start(name, UNTRAINED, *((None, None) if is_convnet else (start.source, 0)))


@dataclass(frozen=True)
class Terms:
    """Settings shared by all starts."""

    data: Path
    out: Path
    """Folder of the fine-tuning runs; finished ones are reused."""
    seeds: tuple[int, ...]
    """Each decides the labels, the order and the new weights of its repetition."""
    num_labels: int | None
    settings: Mapping[str, Any]
    """Changes to the fine-tuning recipe."""
    recipe: str = "finetune_micro"
    """The fine-tuning recipe."""
    subset: str | None = None
    """Subset of the training images, as for `finetune`; `num_labels` are drawn from it."""
    options: Options = field(default_factory=Options)
    """Settings that change no number."""

    def resolved(self, seed: int) -> Recipe:
        """Return the recipe of one repetition."""
        return resolved(self.recipe, {"set": self.settings, "seed": seed})

    def chosen(self, images: Labelled, seed: int) -> np.ndarray:
        """Return the training images of one repetition."""
        return chosen_ids(images.index, images.train, seed=seed, subset=self.subset, num_labels=self.num_labels)

    def steps(self, images: Labelled, seed: int) -> int:
        """Return the optimizer steps of one repetition.

        Raises:
            DataError: if there are too few labels.
            UsageError: if there are fewer images than a batch takes.
        """
        budget, num_chosen = self.resolved(seed).budget, len(self.chosen(images, seed))
        steps_per_epoch(num_images=num_chosen, batch_size=budget.batch_size)
        return budget.steps(num_chosen, num_whole=len(images.train))


def finetune_arms(starts: Sequence[Start], terms: Terms, teller: Teller) -> list[Arm]:
    """Fine-tune from every start with every seed, side by side."""
    return finetune_grid([(start, terms) for start in starts], teller)


def finetune_grid(cells: Sequence[tuple[Start, Terms]], teller: Teller) -> list[Arm]:
    """`finetune_arms` for any pairs of start and terms on the same data; one arm per pair, in order.

    Raises:
        VitletError: before the first run begins, if any of them cannot begin.
    """
    trials = finetunings(cells, teller)
    every = [trial for arm in trials for trial in arm]
    train_side_by_side(every, title="fine-tuning", options=cells[0][1].options, teller=teller)
    return [_arm(start, terms, arm) for (start, terms), arm in zip(cells, trials, strict=True)]


def finetunings(cells: Sequence[tuple[Start, Terms]], teller: Teller) -> list[list[Training]]:
    """Return the runs that `finetune_grid` makes, for every cell one a seed.

    Raises:
        VitletError: if any of them cannot begin.
    """
    images = Labelled.open(cells[0][1].data, cells[0][1].options, teller)
    places: dict[str, Run] = {}
    contents = {start: start_content(start.source, start.keep_blocks) for start, _ in cells}
    objectives = [terms.resolved(terms.seeds[0]).objective for _, terms in cells]
    taught = {objective: teacher_content(objective) for objective in set(objectives)}
    return [
        [
            _trial(start, terms, seed, images, weights=(contents[start], taught[objective]), places=places)
            for seed in terms.seeds
        ]
        for (start, terms), objective in zip(cells, objectives, strict=True)
    ]


def _trial(
    start: Start, terms: Terms, seed: int, images: Labelled, *, weights: tuple[str, str], places: dict[str, Run]
) -> Training:
    """Return the run of one repetition: one of the same content in `terms.out` or already planned, or a new one.

    `weights` identifies the weights of start and teacher by content.
    """
    steps = terms.steps(images, seed)
    content, teacher = weights
    decides = {
        "recipe": terms.resolved(seed).fingerprint(),
        "data": images.index.fingerprint,
        "start": content,
        "num_labels": terms.num_labels,
        "subset": terms.subset,
        **({"teacher": teacher} if teacher else {}),
    }
    digest = address_of(decides)[:12]
    if digest not in places:
        there = sorted(terms.out.glob(f"*-{digest}"))
        places[digest] = Run(there[0] if there else terms.out / f"{start.name}-seed{seed}-{digest}")
    run = places[digest]
    return Training(run, steps, _finetune_one, (start, terms, seed, run.path))


def _arm(start: Start, terms: Terms, trials: Sequence[Training]) -> Arm:
    runs = [trial.run for trial in trials]
    return Arm(
        name=start.name,
        title=start.title,
        values=tuple(read_json(run.results / "top1.json")["value"] for run in runs),
        seeds=terms.seeds,
        cpu_seconds=tuple(run.environment.cpu_seconds for run in runs),
        runs=tuple(run.path.name for run in runs),
    )


def _finetune_one(start: Start, terms: Terms, seed: int, out: Path) -> None:
    run = Run(out)
    begun = run.environment.launch if run.recipe_file.is_file() else {}
    init = None if start.source is None else str(Source.parse(start.source).absolute())
    # Same content at another path: the original path may be gone, so the run cannot be resumed.
    moved = bool(begun) and (begun["data"], begun["init"]) != (absolute_data(terms.data), init)
    finetune(
        terms.recipe,
        init=start.source,
        data=terms.data,
        out=out,
        num_labels=terms.num_labels,
        keep_blocks=start.keep_blocks,
        subset=terms.subset,
        options=terms.options.changed(quiet=True, fresh=moved),
        seed=seed,
        set=terms.settings,
    )


def frozen_arms(
    starts: Sequence[Start], terms: Terms, images: Labelled, teller: Teller, *, protocols: Sequence[ProbeName]
) -> dict[ProbeName, list[Arm]]:
    """Probe frozen features of every start with every seed, side by side."""
    return frozen_grid([(start, terms) for start in starts], images, teller, protocols=protocols)


def frozen_grid(
    cells: Sequence[tuple[Start, Terms]], images: Labelled, teller: Teller, *, protocols: Sequence[ProbeName]
) -> dict[ProbeName, list[Arm]]:
    """`frozen_arms` for any pairs of start and terms on the same data.

    A random start has the shape of its source, or of the first source there is. If every seed has the same labels, a
    trained start is probed once: no probe is random itself.

    Returns:
        For each protocol one arm per pair, in order.
    """
    assert all(start.keep_blocks in (None, 0) for start, _ in cells), "features of an encoder that is not whole"
    like = next(start.source for start, _ in cells if start.source)
    once = [not start.is_random and _same_labels(terms, images) for start, terms in cells]
    seeds = [terms.seeds[:1] if single else terms.seeds for single, (_, terms) in zip(once, cells, strict=True)]
    # By seed: the first probe of a start computes the features of the test images, and the others find them.
    asked = sorted(((cell, seed) for cell in range(len(cells)) for seed in seeds[cell]), key=lambda pair: pair[1])
    calls = [(_probe_one, *cells[cell], seed, like, tuple(protocols)) for cell, seed in asked]
    with teller.progress("probing", total=len(calls)) as tick:
        found = dict(zip(asked, results_side_by_side(calls, options=cells[0][1].options, watch=tick), strict=True))

    def arm(cell: int, protocol: ProbeName) -> Arm:
        values, costs = zip(*(found[cell, seed][protocol] for seed in seeds[cell]), strict=True)
        return Arm(cells[cell][0].name, cells[cell][0].title, values, seeds[cell], costs, once=once[cell])

    return {protocol: [arm(cell, protocol) for cell in range(len(cells))] for protocol in protocols}


def _probe_one(
    start: Start, terms: Terms, seed: int, like: str | Path, protocols: Sequence[ProbeName]
) -> dict[ProbeName, tuple[float, float]]:
    """Return for each protocol the accuracy and the CPU seconds."""
    images = _opened(terms.data, terms.options)  # pyright: ignore[reportArgumentType] (frozen, so it has a hash)
    model = load_encoder(like)
    encoder = (load_encoder(start.source) if start.source else model).encoder
    if start.is_random:
        encoder = new_encoder(encoder.config, normalisation=encoder.normalisation, seed=seed)
    encoder = encoder.to(pick_device(terms.options))
    few, found = terms.chosen(images, seed), {}
    for protocol in protocols:
        began, seen = time.process_time(), {"view": model.evaluation, "how": Probing(protocol)}
        result = probe_encoder(encoder, images, few, **seen, options=terms.options)
        found[protocol] = (result.top1, time.process_time() - began)
    return found


@cache
def _opened(data: Path, options: Options) -> Labelled:
    """The images, once in each process that probes."""
    return Labelled.open(data, options, Teller(quiet=True))


def _same_labels(terms: Terms, images: Labelled) -> bool:
    """Return whether every seed trains on the same images, for example on all of them."""
    first, *others = (np.sort(terms.chosen(images, seed)) for seed in terms.seeds)
    return len(first) == len(images.train) or (bool(others) and all(np.array_equal(first, ids) for ids in others))
