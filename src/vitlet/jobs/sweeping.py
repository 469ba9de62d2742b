"""Sweeps of the paper: how many pre-trained blocks are worth keeping, and which layers are worth distilling.

Both fine-tune with `vitlet.jobs.arms` and report on the same page as `vitlet compare`.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from vitlet.choices import ProbeName
from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.errors import UsageError
from vitlet.evaluation.compare import Arm
from vitlet.evaluation.curves import Curve, Point, Question, document
from vitlet.evaluation.features import encoder_digest
from vitlet.jobs.arms import Start, Terms, finetune_grid, frozen_arms, untrained
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
from vitlet.jobs.material import shape_of
from vitlet.jobs.options import Options, require_known
from vitlet.jobs.side_by_side import pretrain_side_by_side
from vitlet.jobs.spread import among_ranks
from vitlet.jobs.training import resolved
from vitlet.nn.convnet import require_patches
from vitlet.recipes import by_name
from vitlet.recipes.distill import DistillObjective
from vitlet.run import address_of
from vitlet.text import plural, uncapitalised
from vitlet.weights.names import Source, untrained_architecture
from vitlet.weights.source import load_encoder

LayerPairs = tuple[tuple[int, int], ...]
"""(student block, teacher block), from 1."""
_PROBES: dict[ProbeName, str] = {
    "knn": "20 nearest neighbours on frozen features",
    "logistic": "Logistic regression on frozen features",
}


class LayerTuning(TypedDict, total=False):
    """How students are pre-trained and evaluated, with the names of the command-line options."""

    set: Mapping[str, Any]
    """Changes to the pre-training recipe, by dotted key."""
    seeds: int
    """Repetitions of the evaluation; by default 3."""
    finetune: str
    """The fine-tuning recipe; by default `finetune_micro`."""
    finetune_set: Mapping[str, Any]
    """Changes to the fine-tuning recipe, by dotted key."""


@among_ranks
def sweep_keep_blocks(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    blocks: Sequence[int] | None = None,
    num_labels: int | None = None,
    options: Options = Options(),
    **tuning: Unpack[Tuning],
) -> dict[str, Any]:
    """Fine-tune from the lowest K blocks of encoders, the rest re-initialised: Wang et al. 2023, Figures 2 and 4.

    Args:
        runs: At least one run, model folder or timm:NAME@FILE, all of the same shape.
        data: Labelled images.
        out: Folder, as for `compare`.
        blocks: Values of K; None: every one. K = 0 keeps nothing and is the reference.
        num_labels: Training labels, balanced over classes; None: all.
        options: As for `compare`.
        **tuning: As for `compare`.

    Returns:
        The document.

    Raises:
        UsageError: for more blocks than there are, or encoders without blocks or of different shapes.
    """
    judging, teller, began = Judging.of(tuning, options), Teller(quiet=options.quiet), time.monotonic()
    data, out = Path(data), Path(out)
    if not runs:
        raise UsageError("no run to cut", fix="vitlet sweep keep-blocks RUN --data DATA --out DIR")
    terms = judging.terms(data=data, out=out, num_labels=num_labels)
    sources = [os.fspath(run) for run in runs]
    trained = [Start(name, name, source) for name, source in zip(arm_names(sources), sources, strict=True)]
    counts = _block_counts(trained, terms, blocks)
    images = Labelled.open(data, judging.options, teller)
    counterpart = untrained(trained)
    randoms = list(dict.fromkeys(counterpart.values()))
    cells = [replace(start, keep_blocks=count) for count in counts for start in trained]
    teller.say(f"{plural(len(trained), 'encoder')}, {', '.join(map(str, counts))} blocks kept, {judging.seeds} seeds")
    judged = finetune_grid([(start, terms) for start in (*randoms, *cells)], teller)
    references, arms = judged[: len(randoms)], judged[len(randoms) :]
    width = len(trained)
    points = [
        Point(float(count), plural(count, "block"), tuple(arms[i * width : (i + 1) * width]))
        for i, count in enumerate(counts)
    ]
    curve = Curve("finetune", f"Fine-tuning with {_labels(images, num_labels)}", tuple(points), len(images.test),
                  images.split, references=tuple(references))  # fmt: skip
    found = document(
        "keep-blocks",
        title="How many pre-trained blocks are worth keeping?",
        axis={"label": "lowest blocks kept", "scale": "linear"},
        data=facts_of(images),
        starts=[start_facts(start) for start in (*randoms, *trained)],
        curves=[curve],
        questions=_block_questions(points, {name: like.name for name, like in counterpart.items()}, curve),
        budget=budget_of(terms),
    )
    found["note"] = (
        "Patch embedding, tokens and the lowest blocks come from the encoder, the blocks above are as they were before "
        "its training, and everything is fine-tuned. Nothing kept is the line."
    )
    return publish(found, out, teller, began)


def _block_counts(trained: Sequence[Start], terms: Terms, blocks: Sequence[int] | None) -> list[int]:
    recipe, shapes = terms.resolved(0), set()
    depth = 0
    for start in trained:
        saved = load_encoder(start.source or "")
        require_startable(saved, recipe, str(start.source))
        depth = require_patches(saved.encoder, purpose="a sweep over blocks").config.depth
        shapes.add(shape_of(saved.encoder))
    if len(shapes) > 1:
        raise UsageError(
            "the encoders have different shapes", why="One curve over their blocks would compare shapes too",
            fix="a sweep for each",
        )  # fmt: skip
    counts = sorted(set(range(depth + 1) if blocks is None else blocks))
    wrong = [count for count in counts if not 0 <= count <= depth]
    if wrong or not counts:
        shown = f"{wrong[0]} blocks" if wrong else "no number of blocks"
        raise UsageError(f"{shown} of an encoder that has {depth}", fix=f"--blocks with numbers from 0 to {depth}")
    return counts


def _block_questions(points: Sequence[Point], counterpart: Mapping[str, str], curve: Curve) -> list[Question]:
    """For each encoder: is keeping the most blocks better than keeping none, and than keeping fewer?"""
    questions = []
    *lower, top = points
    for place, most in enumerate(top.arms):
        reference = next(arm for arm in curve.references if arm.name == counterpart[most.name])
        most = replace(most, title=f"{most.title} with {top.label}")
        pairs = [(f"Did {top.arms[place].title} help with {top.label} kept", reference)] if top.x else []
        pairs += [
            (f"Does {top.arms[place].title} with {top.label} do better than with {point.label}",
             replace(point.arms[place], title=f"{point.arms[place].title} with {point.label}"))
            for point in lower if point.x
        ]  # fmt: skip
        where = uncapitalised(curve.title)
        questions += [Question(f"{text}?", where, most, other, curve.n, curve.split) for text, other in pairs]
    return questions


@among_ranks
def sweep_distill_layers(
    recipe: str,
    *,
    data: str | os.PathLike[str],
    teacher: str,
    layers: Sequence[LayerPairs],
    out: str | os.PathLike[str],
    num_labels: int | None = None,
    options: Options = Options(),
    **tuning: Unpack[LayerTuning],
) -> dict[str, Any]:
    """Distil different layers, and evaluate the students by probes and fine-tuning: Wang et al. 2023, Figure 7.

    Each list is pre-trained once. Every list is compared with one more pre-training that distils nothing: neither
    attention (weight 0) nor tokens.

    Args:
        recipe: An attention distillation recipe whose decoder reads the last block.
        data: Labelled images; only the evaluation uses the labels.
        teacher: A run, a model folder, timm:NAME@FILE or untrained:NAME.
        layers: Lists of (student block, teacher block).
        out: Folder for `pretrained/` and the outputs of `compare`; finished runs are reused.
        num_labels: Labels for probes and fine-tuning; None: all.
        options: As for `compare`.
        **tuning: `set` for dotted keys of the recipe, `seeds`, and `finetune` and `finetune_set` for the fine-tuning.

    Returns:
        The document.

    Raises:
        UsageError: for a recipe that does not distil attention or is decoupled (D²-MAE), or blocks that do not exist;
            raised before any image is opened.
    """
    teller, began, data, out = Teller(quiet=options.quiet), time.monotonic(), Path(data), Path(out)
    terms = _judged(tuning, options).terms(data=data, out=out, num_labels=num_labels)
    base = {**(tuning.get("set") or {}), "objective.teacher": _absolute_teacher(teacher)}
    lists: list[LayerPairs] = [(), *dict.fromkeys(layers)]
    _require_layers(recipe, teacher, lists, base)
    images = Labelled.open(data, terms.options, teller)
    changes = [base | _distilled(pairs) for pairs in lists]
    places = [out / "pretrained" / _place(recipe, change, images=images.index, teacher=teacher) for change in changes]
    recipes = {place: (recipe, change) for place, change in zip(places, changes, strict=True)}
    pretrain_side_by_side(recipes, data=data, num_images=len(images.train), options=terms.options, teller=teller)
    starts = [Start("distilled", layer_words(pairs), str(place)) for pairs, place in zip(lists, places, strict=True)]
    random = untrained(starts)[starts[0].name]
    everyone = [random, *starts]
    judged = {"finetune": finetune_grid([(start, terms) for start in everyone], teller)}
    judged |= frozen_arms(everyone, terms, images, teller, protocols=list(_PROBES))
    titles = {"finetune": "Fine-tuning", **_PROBES}
    curves = [
        _layer_curve(name, f"{titles[name]}, {_labels(images, num_labels)}", arms, lists, images)
        for name, arms in judged.items()
    ]
    facts = [start_facts(start) for start in starts]
    costs = [fact["pretraining_cpu_seconds"] for fact in facts]
    student = {
        "name": "distilled", "title": "distilled student", "source": f"{len(starts)} runs in pretrained/",
        "encoder": None, "recipe": recipe, "keep_blocks": None, "pretraining_cpu_seconds": sum(costs),
    }  # fmt: skip
    found = document(
        "distill-layers",
        title="Which layers are worth distilling?",
        axis={"label": "student block ← teacher block", "scale": "names"},
        data=facts_of(images),
        starts=[start_facts(random), student],
        curves=curves,
        questions=_layer_questions(judged["finetune"], curves[0]),
        budget=budget_of(terms),
    )
    found["pretrained"] = facts
    found["note"] = (
        "Each list was pre-trained once: seeds are repetitions of fine-tuning and of the drawn labels alone."
    )
    return publish(found, out, teller, began)


def _judged(tuning: LayerTuning, options: Options) -> Judging:
    require_known(tuning, LayerTuning)
    words = {"seeds": tuning.get("seeds"), "recipe": tuning.get("finetune"), "set": tuning.get("finetune_set")}
    given = {name: value for name, value in words.items() if value is not None}
    return Judging.of(cast(Tuning, given), options)


def layer_words(pairs: LayerPairs) -> str:
    """`block 4 from 12`, `blocks 1 from 1, 2 from 2`, `nothing distilled`."""
    if not pairs:
        return "nothing distilled"
    return f"block{'s' * (len(pairs) > 1)} " + ", ".join(f"{s} from {t}" for s, t in pairs)


def _layer_curve(name: str, title: str, arms: Sequence[Arm], lists: Sequence[LayerPairs], images: Labelled) -> Curve:
    reference, *students = arms
    points = tuple(
        Point(
            float(place),
            layer_words(pairs),
            (replace(arm, title="distilled student"),),
            tick=_tick(pairs),
        )
        for place, (pairs, arm) in enumerate(zip(lists, students, strict=True))
    )
    return Curve(name, title, points, len(images.test), images.split, references=(reference,))


def _tick(pairs: LayerPairs) -> str:
    if len(pairs) > 2:
        return f"{len(pairs)} pairs"
    return ", ".join(f"{s}←{t}" for s, t in pairs) or "none"


def _layer_questions(arms: Sequence[Arm], curve: Curve) -> list[Question]:
    """Does each list help over no distillation, and is the first one better than the others?"""
    _, none, *students = arms
    pairs = [(f"Does distilling {arm.title} help", arm, none) for arm in students]
    pairs += [(f"Is {students[0].title} better than {arm.title}", students[0], arm) for arm in students[1:]]
    where = uncapitalised(curve.title)
    return [Question(f"{text}?", where, a, b, curve.n, curve.split) for text, a, b in pairs]


def _distilled(pairs: LayerPairs) -> dict[str, Any]:
    if pairs:
        return {"objective.layers": [list(pair) for pair in pairs]}
    return {"objective.weight": 0.0, "objective.hidden": []}


def _require_layers(recipe: str, teacher: str, lists: Sequence[LayerPairs], settings: Mapping[str, Any]) -> None:
    if not isinstance(by_name(recipe).objective, DistillObjective):
        raise UsageError(f"{recipe} does not distil attention", fix="dmae_micro, or another of vitlet recipes")
    asked = resolved(recipe, {"set": settings})
    depth = asked.encoder.depth
    if asked.objective.extra_block or (asked.objective.mae.read_after or depth) < depth:
        raise UsageError(
            f"{recipe} is decoupled: its decoder reads a middle block, or its student has an extra one",
            why="Blocks would stay untrained in the student that distils nothing, with which every list is compared",
            fix="dmae_micro or dmae_tiny_400e, without objective.mae.read_after and objective.extra_block",
        )
    above = _teacher_depth(teacher)
    for student, taught in (pair for pairs in lists for pair in pairs):
        if student > depth or (above is not None and taught > above):
            raise UsageError(
                f"block {student} from {taught} cannot be distilled",
                why=f"The student has {depth} blocks" + ("" if above is None else f", the teacher {above}"),
                fix="--layers with blocks that are there",
            )


def _teacher_depth(teacher: str) -> int | None:
    if untrained_architecture(teacher) is not None:
        return None
    return require_patches(load_encoder(teacher).encoder, purpose="attention distillation").config.depth


def _absolute_teacher(teacher: str) -> str:
    return str(Source.parse(teacher).absolute()) if untrained_architecture(teacher) is None else teacher


def _place(recipe: str, changes: Mapping[str, Any], *, images: Index, teacher: str) -> str:
    """Return a folder name that changes with recipe, images and the teacher's content."""
    asked = resolved(recipe, {"set": changes})
    taught = teacher
    if untrained_architecture(teacher) is None:
        saved = load_encoder(teacher)
        taught = encoder_digest(saved.encoder, view=saved.evaluation)
    return f"{recipe}-{address_of([asked.fingerprint(), images.fingerprint, taught])[:12]}"


def _labels(images: Labelled, num_labels: int | None) -> str:
    return plural(len(images.train) if num_labels is None else num_labels, "label")
