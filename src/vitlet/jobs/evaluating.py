"""Accuracy of a finished classifier on labelled images, including the test sets of ImageNet-1k."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitlet.choices import EvaluationName
from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.data.loader import evaluation_batches
from vitlet.data.subsets import divide
from vitlet.data.verdicts import Verdicts
from vitlet.disk import write_json
from vitlet.distributed.world import World
from vitlet.errors import DataError
from vitlet.evaluation.features import encoder_digest
from vitlet.evaluation.imagenet import count_right, head_positions, real_answers, validation_number
from vitlet.evaluation.result import Result, with_machine, write_result
from vitlet.jobs.images import judged, opened
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.nn.heads import head_input
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train.clock import Clock
from vitlet.weights.files import no_classifier
from vitlet.weights.folder import Saved
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder

_NAMES = {"val": "accuracy", "real": "accuracy on ReaL labels", "v2": "accuracy on ImageNet-V2, matched frequency"}
_ASSUMED = "taken as"
_NEAR_CHANCE = 5
"""Multiple of chance below which a head with numbered classes probably has them in another order."""


@dataclass(frozen=True)
class Questions:
    """The images of an evaluation and their right answers."""

    ids: np.ndarray
    """Rows of the index."""
    right: Sequence[Sequence[int]]
    """Right outputs of the head for each position in `ids`; empty where unknown."""
    split: str
    order: str
    """How the classes of data and head were matched."""


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    protocol: EvaluationName = "val",
    json: str | os.PathLike[str] | None = None,
    options: Options = Options(),
) -> Result:
    """Measure top-1 and top-5 of the classifier in `run`, each image once, over any number of ranks.

    Args:
        run: A fine-tuned run, a model folder with a classifier, or `timm:NAME@FILE`.
        data: `val`: labelled images. `real`: ImageNet's validation images, known by file name; folders do not matter.
            `v2`: ImageNet-V2, folders 0 … 999. The `test` split is used, else `val`, else all images; if the run was
            trained on `data` and there are no splits, the images held out then.
        protocol: Which labels to use.
        json: File for a copy of the result in the run's `results/`.
        options: Workers, device, tolerance.

    Raises:
        UsageError: if there is no classifier.
        DataError: if classes or names of the data do not fit.
    """
    with World.joined(pick_device(options)) as world:
        return _score(run, data, protocol, None if json is None else Path(json), options, world)


def _score(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    protocol: EvaluationName,
    file: Path | None,
    options: Options,
    world: World,
) -> Result:
    teller = Teller(quiet=options.quiet)
    clock = Clock()
    saved = load_encoder(run)
    if saved.classifier is None:
        raise no_classifier(run, then="evaluate NEW; or vitlet probe")
    index = opened(data, options, teller)
    outputs = _outputs(index, saved, protocol)
    verdicts = judged(index, options, teller, training=False)
    asked = _questions(index, verdicts, saved, outputs)
    shared = world.among(len(asked.ids))
    device = pick_device(options)
    encoder, classifier = saved.encoder.to(device).eval(), saved.classifier.to(device).eval()
    loader = evaluation_batches(
        index,
        asked.ids,
        view=saved.evaluation,
        workers=options.num_workers(image_size=saved.evaluation.size),
        rank=shared.rank,
        num_ranks=shared.size,
        normalisation=encoder.normalisation,
    )
    mine = count_right(lambda x: classifier(head_input(encoder, x)), loader, asked.right, device=device)
    n, first, fifth = (round(shared.sum(count)) for count in mine)
    if not n:
        raise DataError(
            "none of these images has a label that counts",
            where=index.name,
            fix="give images of classes that the model knows, or another --protocol",
        )
    result = Result(
        metric="top1",
        value=first / n,
        n=n,
        seed=0,
        split=asked.split,
        protocol=f"{_NAMES[protocol]} of {_kind(saved)}",
        data=index.facts(),
        recipe=saved.facts.get("recipe_fingerprint", ""),
        **clock.spent(),
        details={
            "top5": fifth / n if len(saved.classes) > 5 else None,
            "labels": protocol,
            "order": asked.order,
            "left_out": len(asked.ids) - n,
            "model": _model_name(run),
            "image_size": saved.evaluation.size,
            "encoder": encoder_digest(saved.encoder, view=saved.evaluation),
        },
    )
    _publish(run, result, protocol=protocol, file=file, world=world)
    _tell(result, asked, len(saved.classes), teller)
    return result


def _kind(saved: Saved) -> str:
    """Describe the classifier, and name the images it was chosen on, if any: its accuracy on them is biased."""
    chosen = saved.facts.get("chosen")
    return f"the classifier that was chosen {chosen}" if chosen else "the classifier as it is"


def _outputs(index: Index, saved: Saved, protocol: EvaluationName) -> tuple[np.ndarray, str] | None:
    """Return the head output for each class of the data, and how they were matched; None for ReaL labels.

    Opens no image.

    Raises:
        DataError: without labels, if a class has no image, or if classes do not fit the head or the protocol.
    """
    if protocol == "real":
        return None
    if not index.classes:
        raise _nothing(index, "labelled")
    index.require_every_class()
    if protocol == "v2" and not all(name.isdigit() or name[:1] == "n" for name in index.classes):
        raise DataError(
            f"{index.name} is not ImageNet-V2",
            why="Its folders are named 0 to 999, or by synset",
            fix="the folder imagenetv2-matched-frequency-format-val, or --protocol val for other data",
        )
    return head_positions(index.classes, saved.classes)


def _questions(index: Index, verdicts: Verdicts, saved: Saved, outputs: tuple[np.ndarray, str] | None) -> Questions:
    """Choose the images to evaluate and the right head outputs for each.

    Raises:
        DataError: if there are none, or names are not those of ImageNet's validation images.
    """
    ids, split = _rows(index, verdicts, saved, labelled=outputs is not None)
    if outputs is not None:
        positions, order = outputs
        return Questions(ids, [(int(positions[label]),) for label in index.labels[ids]], split, order)
    numbers = [validation_number(index.path(int(i))) for i in ids]
    wrong = [index.path(int(i)) for i, number in zip(ids, numbers, strict=True) if number is None]
    if wrong:
        raise DataError(
            f"{plural(len(wrong), 'name')} not of ImageNet's validation images, such as {printable(wrong[0])}",
            why="ReaL labels go by the number in ILSVRC2012_val_00000001.JPEG",
            fix="the original validation images under their own names",
        )
    right, order = real_answers([number for number in numbers if number], saved.classes)
    return Questions(ids, right, split, order)


def _rows(index: Index, verdicts: Verdicts, saved: Saved, *, labelled: bool) -> tuple[np.ndarray, str]:
    usable = verdicts.good & (index.labels >= 0) if labelled else verdicts.good
    for split in ("test", "val"):
        rows = index.rows(split, usable)
        if len(rows):
            return rows, split
    if labelled and saved.facts.get("data_fingerprint") == index.fingerprint:
        _, rows, split = divide(index, verdicts.good)
        return rows, split
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise _nothing(index, "labelled" if labelled else "usable")
    return rows, "whole set"


def _nothing(index: Index, kind: Literal["labelled", "usable"]) -> DataError:
    return DataError(f"{index.name} has no {kind} images", fix="class folders, or a manifest with a label column")


def _model_name(run: str | os.PathLike[str]) -> str:
    source = Source.parse(run)
    return printable(source.architecture or source.path.absolute().name)


def _publish(
    run: str | os.PathLike[str], result: Result, *, protocol: EvaluationName, file: Path | None, world: World
) -> None:
    if not world.is_first:
        return
    if Source.parse(run).architecture is None:  # a bare file has no place for results
        write_result(Run(Path(run)), f"evaluate-{protocol}", result)
    if file is not None:
        write_json(file, with_machine(result))


def _tell(result: Result, asked: Questions, num_classes: int, teller: Teller) -> None:
    top5 = result.details["top5"]
    fifth = "" if top5 is None else f", top-5 {100 * top5:.2f} %"
    teller.say(
        f"top-1 {100 * result.value:.2f} %{fifth} on {plural(result.n, 'image')} ({result.split}; {asked.order})"
    )
    if result.details["left_out"]:
        teller.say(f"{plural(result.details['left_out'], 'image')} without a label that counts left out")
    if _ASSUMED in asked.order and result.value * num_classes < _NEAR_CHANCE:
        teller.say("warning: near chance. The head's classes are probably in another order than the sorted synsets.")
