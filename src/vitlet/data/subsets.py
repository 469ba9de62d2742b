"""Which images take part: pure functions from columns to positions, the same on every machine.

All results are int64 positions in the index, sorted, so that what is chosen and in which order it is visited are
separate questions.
"""

import bisect
from collections.abc import Sequence
from typing import Literal

import numpy as np

from vitlet.data.choice import Subset
from vitlet.data.index import SPLITS, Index
from vitlet.errors import DataError
from vitlet.rng import derive, permutation
from vitlet.text import plural, printable


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
    classes = _several_classes(labels)
    if num < len(classes):
        raise DataError(
            f"{num} labels for {len(classes)} classes",
            why="Every class needs one",
            fix=f"--num-labels {len(classes)}",
        )
    counts = np.bincount(labels[labels >= 0])[classes]
    extra = permutation(derive(seed, "balanced", "extra"), len(classes))[: num % len(classes)]
    wanted = np.full(len(classes), num // len(classes))
    wanted[extra] += 1
    short = np.flatnonzero(counts < wanted)
    if len(short):
        raise DataError(
            f"class number {classes[short[0]]} has {counts[short[0]]} images, {wanted[short[0]]} are wanted",
            why=f"{num} labels over {len(classes)} classes",
            fix=f"--num-labels {counts.min() * len(classes)} or less",
        )
    return _drawn(labels, classes, wanted, seed=seed)


def share_of(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Choose a share of the images, equally many of each class as far as the classes have them.

    A class with fewer gives all it has and the others give more, so that any share can be had and 1 is everything.
    Where every class has enough this is `balanced`. A larger share with the same seed contains the smaller one, but
    for the one image more that some classes give. Images without a label give their share as a group of their own.

    Args:
        labels: Int [n], -1 without a label.
        share: 0 … 1, of all n; rounded to whole images.
        seed: Decides which.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if it is not an image, or fewer than there are classes.
    """
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    num, num_unknown = round(share * len(known)), round(share * len(unknown))
    classes = np.unique(labels[known])
    if num < len(classes) or not num + num_unknown:
        least = len(classes) / len(known) if len(classes) else 1 / len(labels)
        raise DataError(
            f"a share of {share:g} is {plural(num + num_unknown, 'image')} of {len(labels):,}",
            why=f"There are {plural(len(classes), 'class', 'classes')} and each needs one" if len(classes) else "",
            fix=f"a share of {np.ceil(1e6 * least) / 1e6:g} or more",
        )
    chosen = [unknown[permutation(derive(seed, "balanced", "none"), len(unknown))[:num_unknown]]]
    if len(classes):
        counts = np.bincount(labels[known])[classes]
        chosen.append(_drawn(labels, classes, _even(counts, num=num, seed=seed), seed=seed))
    return np.sort(np.concatenate(chosen))


def _even(counts: np.ndarray, *, num: int, seed: int) -> np.ndarray:
    """How many each class gives so that `num` come together and the largest gift is as small as can be."""
    levels = range(int(counts.max()) + 1)
    level = bisect.bisect_right(levels, num, key=lambda each: np.minimum(counts, each).sum()) - 1
    wanted = np.minimum(counts, level)
    order = permutation(derive(seed, "balanced", "extra"), len(counts))
    wanted[order[counts[order] > level][: num - wanted.sum()]] += 1
    return wanted


def long_tailed(labels: np.ndarray, *, imbalance: float, seed: int) -> np.ndarray:
    """Choose images so that class sizes fall exponentially in the order of the class numbers.

    Class i of C gives `floor(m · imbalance^(−i / (C − 1)))` images, m the size of the largest class, at least one and
    at most what it has. Source: Cui et al. 2019, Section 5.1; 5,000 images of ten classes and 100 give 12,406.

    Args:
        labels: Int [n], -1 without a label; those are left out.
        imbalance: First class size over last, at least 1.
        seed: Decides which images.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if there are fewer classes than two.
    """
    classes = _several_classes(labels)
    counts = np.bincount(labels[labels >= 0])[classes]
    falling = imbalance ** (-np.arange(len(classes)) / (len(classes) - 1))
    wanted = np.floor(counts.max() * falling + 1e-9).astype(int)
    return _drawn(labels, classes, np.minimum(counts, np.maximum(wanted, 1)), seed=seed)


def listed(names: Sequence[str], paths: Sequence[str], *, where: str) -> np.ndarray:
    """Positions in `paths` of the images that a list names.

    A name is a path relative to the data, the end of one, or a bare file name; a class number behind it is not read
    (`train/n01440764/n01440764_10026.JPEG 0`, as the lists of ImageNet-LT have it).

    Args:
        names: Lines of the list.
        paths: Of the training images, relative.
        where: The list, for messages.

    Returns:
        Positions, sorted.

    Raises:
        DataError: for a name that no training image has, that several have, or that stands there twice.
    """
    ends: dict[str, list[int]] = {}
    depths = {_depth(name) for line in names for name in (line, _without_number(line))}
    for position, path in enumerate(paths):
        parts = path.split("/")
        for depth in depths:
            if depth <= len(parts):
                ends.setdefault("/".join(parts[-depth:]), []).append(position)
    chosen: list[int] = []
    missing: list[str] = []
    for line in names:
        found = ends.get(line) or ends.get(_without_number(line))
        if found is None:
            missing.append(line)
        elif len(found) > 1:
            raise DataError(
                f"{plural(len(found), 'training image')} are called {printable(line)}",
                where=where,
                why=f"{printable(paths[found[0]])} and {printable(paths[found[1]])}",
                fix="list paths relative to the data",
            )
        else:
            chosen.append(found[0])
    if missing:
        raise DataError(
            f"{len(missing):,} of {plural(len(names), 'listed name')} are no usable training image",
            where=where,
            why=f"The first is {printable(missing[0])}",
            fix="complete the data, or take the names out of the list",
        )
    unique, counts = np.unique(np.array(chosen, dtype=np.int64), return_counts=True)
    if counts.max() > 1:
        twice = paths[int(unique[counts.argmax()])]
        raise DataError(f"{printable(twice)} is listed twice", where=where, fix="list it once")
    return unique


def _depth(name: str) -> int:
    return name.count("/") + 1


def _without_number(line: str) -> str:
    name, _, number = line.rpartition(" ")
    return name if name and number.isdigit() else line


def subset_ids(index: Index, ids: np.ndarray, subset: Subset, *, seed: int) -> np.ndarray:
    """Those of the rows `ids` (sorted) that take part.

    Raises:
        DataError: as `share_of`, `long_tailed`, `listed`.
    """
    labels = np.asarray(index.labels[ids])
    if subset.file is not None:
        paths = [index.path(i) for i in ids]
        return ids[listed(subset.names(), paths, where=printable(subset.file.name))]
    if subset.imbalance is not None:
        return ids[long_tailed(labels, imbalance=subset.imbalance, seed=seed)]
    assert subset.share is not None
    return ids[share_of(labels, share=subset.share, seed=seed)]


def _several_classes(labels: np.ndarray) -> np.ndarray:
    classes = np.unique(labels[labels >= 0])
    if len(classes) < 2:
        raise DataError(
            f"labels of {len(classes)} classes",
            why="Choosing among classes needs two or more",
            fix="give class folders, or a manifest with a label column, of two classes",
        )
    return classes


def _drawn(labels: np.ndarray, classes: np.ndarray, wanted: np.ndarray, *, seed: int) -> np.ndarray:
    """So many of each class, sorted; with more wanted the same ones are among them."""
    chosen = []
    for code, number in zip(classes, wanted, strict=True):
        members = np.flatnonzero(labels == code)
        chosen.append(members[permutation(derive(seed, "balanced", int(code)), len(members))[:number]])
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
