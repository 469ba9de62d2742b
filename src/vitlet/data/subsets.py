"""Which images take part: pure functions from columns to positions, the same on every machine.

All results are int64 positions in the index, sorted, so that what is chosen and in which order it is visited are
separate questions.
"""

from typing import Literal

import numpy as np

from vitlet.data.index import SPLITS, Index
from vitlet.errors import DataError
from vitlet.rng import derive, permutation


def split_ids(index: Index, good: np.ndarray, split: Literal["train", "val", "test"]) -> np.ndarray:
    """Positions of the good images of one split; `good` is bool [n]."""
    return np.flatnonzero(good & (index.splits == SPLITS.index(split)))


def training_ids(index: Index, good: np.ndarray) -> np.ndarray:
    """Positions of the good training images.

    Raises:
        DataError: if there is none.
    """
    ids = split_ids(index, good, "train")
    if not len(ids):
        raise DataError(
            "no images to train on",
            where=index.name,
            why="None of the train split is usable",
            fix="vitlet check DATA",
        )
    return ids


def balanced(labels: np.ndarray, *, num: int, seed: int) -> np.ndarray:
    """Choose `num` labelled images with equally many of each class: the few-labels setting.

    Where `num` is not a multiple of the classes, some classes (chosen by the seed) give one more. A larger `num`
    with the same seed contains the smaller one, if both are multiples.

    Args:
        labels: Int [n], -1 without a label.
        num: How many.
        seed: Decides which.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if there are fewer classes than two, more classes than `num`, or too few images of a class.
    """
    classes = np.unique(labels[labels >= 0])
    if len(classes) < 2:
        raise DataError(f"labels of {len(classes)} classes", why="Choosing among classes needs two or more")
    if num < len(classes):
        raise DataError(
            f"{num} labels for {len(classes)} classes",
            why="Every class needs one",
            fix=f"--num-labels {len(classes)}",
        )
    extra = set(permutation(derive(seed, "balanced", "extra"), len(classes))[: num % len(classes)])
    chosen = []
    for place, code in enumerate(classes):
        wanted = num // len(classes) + (place in extra)
        members = np.flatnonzero(labels == code)
        if len(members) < wanted:
            smallest = int(np.bincount(labels[labels >= 0])[classes].min())
            raise DataError(
                f"class number {code} has {len(members)} images, {wanted} are wanted",
                why=f"{num} labels over {len(classes)} classes",
                fix=f"--num-labels {smallest * len(classes)} or less",
            )
        chosen.append(members[permutation(derive(seed, "balanced", int(code)), len(members))[:wanted]])
    return np.sort(np.concatenate(chosen))


def holdout(labels: np.ndarray, *, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into a part to learn from and a part to validate on, class by class.

    Args:
        labels: Int [n]; those without a label (-1) are divided as a class of their own.
        share: Of each class, goes to the second part, rounded; a class of two or more keeps one on either side.
        seed: Decides which.

    Returns:
        Positions of the two parts, each sorted; together all of them.
    """
    assert 0 < share < 1
    is_held = np.zeros(len(labels), dtype=bool)
    for code in np.unique(labels):
        members = np.flatnonzero(labels == code)
        num = (
            round(len(members) * share)
            if len(members) < 2
            else min(max(round(len(members) * share), 1), len(members) - 1)
        )
        is_held[members[permutation(derive(seed, "holdout", int(code)), len(members))[:num]]] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
