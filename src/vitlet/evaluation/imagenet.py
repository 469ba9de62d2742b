"""ImageNet-1k and its relabelled and re-collected test sets: mapping head outputs to classes, and ReaL scores.

Three class orders meet: the head's, the folders', and that of the sorted ILSVRC 2012 synsets, which published heads
and the ReaL labels use. They are matched by name, and anything that cannot be matched is rejected. Folders named
0 … 999 (ImageNet-V2) are positions in the sorted synsets; read in the order of a file listing (0, 1, 10, 100 …) they
would give a score near chance.

Papers: Beyer et al. 2020, *Are we done with ImageNet?* (ReaL: any of an image's labels is right, images without a label
are left out); Recht et al. 2019, *Do ImageNet classifiers generalize to ImageNet?* (V2).
"""

import json
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import DataError
from vitlet.evaluation.classify import hits
from vitlet.text import did_you_mean, plural, printable

NUM_CLASSES = 1000
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
_SHOWN = 10


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 synsets in the order of published heads, from the installed timm; verified to be sorted."""
    names = tuple(_timm_file("imagenet_synsets.txt").decode().split())
    assert len(names) == NUM_CLASSES, "timm's list of synsets is not the one of ILSVRC 2012"
    assert names == tuple(sorted(names)), "timm's list of synsets is not sorted"
    return names


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ReaL labels of validation images 1 … 50,000, as positions in `synsets()`; empty for images without one."""
    return tuple(tuple(labels) for labels in json.loads(_timm_file("imagenet_real_labels.json")))


def _timm_file(name: str) -> bytes:
    content = pkgutil.get_data("timm.data", os.path.join("_info", name))
    assert content is not None
    return content


def head_positions(data_classes: Sequence[str], head_classes: Sequence[str]) -> tuple[Int[np.ndarray, "c"], str]:
    """For each class of the data, the output of the head that stands for it; and how the match was made.

    Classes match by name. Failing that, if one side has the synsets and the other the numbers 0 … 999, the numbers are
    positions in the sorted synsets.

    Raises:
        DataError: if a class of the data is not among the head's.
    """
    outputs = {name: place for place, name in enumerate(head_classes)}
    if set(data_classes) <= outputs.keys():
        return np.array([outputs[name] for name in data_classes]), "classes by name"
    place = {name: i for i, name in enumerate(synsets())}
    if _are_numbers(head_classes) and set(data_classes) <= place.keys():
        return (
            np.array([outputs[str(place[name])] for name in data_classes]),
            "the head's numbers taken as places in the sorted synsets",
        )
    if set(head_classes) == place.keys() and _are_numbers(data_classes, within=True):
        return (
            np.array([outputs[synsets()[int(name)]] for name in data_classes]),
            "folder numbers as places in the sorted synsets",
        )
    lost = [name for name in data_classes if name not in outputs]
    shown = ", ".join(printable(name) for name in lost[:_SHOWN])
    near = did_you_mean(lost[0], head_classes)
    raise DataError(
        f"{plural(len(lost), 'class', 'classes')} of the data unknown to the head: {shown}",
        why=printable(near) if near.startswith("Did") else f"The head knows {plural(len(outputs), 'class', 'classes')}",
        fix="data with the classes of the training run, or fine-tune a new head",
    )


def _are_numbers(names: Sequence[str], *, within: bool = False) -> bool:
    """Whether `names` are exactly 0 … 999 in any order or, with `within`, a subset of them."""
    numbers = {str(i) for i in range(NUM_CLASSES)}
    return set(names) <= numbers if within else set(names) == numbers and len(names) == NUM_CLASSES


def validation_number(path: str) -> int | None:
    """Number (1 … 50,000) in the name of a validation image; None for other names."""
    found = _VAL_NAME.match(os.path.basename(path))
    return int(found[1]) if found and 1 <= int(found[1]) <= len(real_labels()) else None


def real_answers(numbers: Sequence[int], head_classes: Sequence[str]) -> tuple[list[tuple[int, ...]], str]:
    """For each validation image (by number), the head outputs that ReaL counts as right; and how they were matched.

    Raises:
        DataError: if the head is not an ImageNet-1k head.
    """
    if len(head_classes) != NUM_CLASSES:
        raise DataError(
            f"the head has {plural(len(head_classes), 'class', 'classes')}",
            why="ReaL labels the 1,000 classes of ILSVRC 2012",
            fix="a model fine-tuned on ImageNet-1k with folders named by synset",
        )
    outputs, order = head_positions(synsets(), head_classes)
    labels = real_labels()
    return [tuple(int(outputs[place]) for place in labels[number - 1]) for number in numbers], order


def count_right(
    forward: Callable[[Tensor], Tensor],
    loader: Iterable[Batch],
    right: Sequence[Sequence[int]],
    *,
    device: torch.device | str = "cpu",
) -> tuple[int, int, int]:
    """Count the images with a right answer, those with a top-1 hit and those with a top-5 hit.

    Args:
        forward: Maps images (uint8, B 3 H W) to logits (B C); already in evaluation mode.
        loader: Batches of one split, each image once; with several ranks, this rank's share.
        right: By position: the outputs that are right; empty for images to leave out.
        device: Device on which `forward` expects its images.

    Raises:
        VitletError: as `classify.hits`.
    """
    first, fifth, _ = hits(
        forward, loader, lambda batch: [right[position] for position in batch.positions.tolist()], device=device
    )
    return len(first), int(first.sum()), int(fifth.sum())
