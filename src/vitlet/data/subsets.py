"""Subsets of images: pure functions from columns to positions, with the same result on every machine.

All results are sorted int64 positions in the index: the selection is independent of the order of visits.
"""

import bisect
from collections.abc import Sequence

import numpy as np

from vitlet.data.choice import Subset
from vitlet.data.index import Index
from vitlet.data.splits import HELD_OUT, SPLITS
from vitlet.errors import DataError
from vitlet.rng import derive, permutation
from vitlet.text import plural, printable

_HELD_OUT_SHARE, _HELD_OUT_SEED = 0.2, 0


def training_ids(index: Index, good: np.ndarray) -> np.ndarray:
    """Return the positions of the good training images; `good` is bool [n].

    Raises:
        DataError: if there are none.
    """
    ids = index.rows("train", good)
    if not len(ids):
        raise DataError(
            "no images to train on",
            where=index.name,
            why="None of the train split is usable",
            fix="vitlet check DATA",
        )
    return ids


def divide(
    index: Index, good: np.ndarray, *, labelled: bool = True, hold_out: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """Divide images into those to train on and those to evaluate on.

    Evaluated is the `test` split if there is one, otherwise `val`, otherwise a fifth of the training images, drawn
    class by class with a fixed seed: the same fifth for every run and probe on this data.

    Args:
        index: The images.
        good: Bool [n]: the images that may be used.
        labelled: Leave out images without a label.
        hold_out: Spare the images that would be evaluated on: take `val` if there is also a `test` split, otherwise
            the fifth.

    Returns:
        Positions of the training images, positions of the evaluation images, and the name of the latter: `test`, `val`
        or `HELD_OUT`.
    """
    usable = good & (index.labels >= 0) if labelled else good
    train, val, test = (index.rows(split, usable) for split in SPLITS)
    if len(test) and not hold_out:
        return train, test, "test"
    if len(val) and (len(test) or not hold_out):
        return train, val, "val"
    if len(train) < 2:
        return train, train[:0], HELD_OUT
    first, second = holdout(np.asarray(index.labels[train]), share=_HELD_OUT_SHARE, seed=_HELD_OUT_SEED)
    return train[first], train[second], HELD_OUT


def balanced(labels: np.ndarray, *, num: int, seed: int) -> np.ndarray:
    """Choose `num` labelled images with equally many per class, for the few-label setting.

    If `num` is not a multiple of the number of classes, some classes (chosen by the seed) contribute one more. If both
    are multiples, the subset of a larger `num` with the same seed contains that of a smaller one.

    Args:
        labels: Int [n], -1 without a label.
        num: Number of images.
        seed: Random seed.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if there are fewer than two classes, more classes than `num`, or too few images of a class.
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
    """Choose a share of the images, with equally many per class as far as possible.

    A class with too few contributes all of its images and the others contribute more, so that any share up to 1 is
    possible. If all classes have enough, the result is that of `balanced`. With the same seed, a larger share contains
    a smaller one, except for the extra image of some classes. Unlabelled images are treated as a separate group.

    Args:
        labels: Int [n], -1 without a label.
        share: Share of all n, 0 … 1; rounded to whole images.
        seed: Random seed.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if the share is less than one image or less than one image per class.
    """
    labelled, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    num, num_unlabelled = round(share * len(labelled)), round(share * len(unlabelled))
    classes = np.unique(labels[labelled])
    if num < len(classes) or not num + num_unlabelled:
        least = len(classes) / len(labelled) if len(classes) else 1 / len(labels)
        raise DataError(
            f"a share of {share:g} is {plural(num + num_unlabelled, 'image')} of {len(labels):,}",
            why=f"There are {plural(len(classes), 'class', 'classes')} and each needs one" if len(classes) else "",
            fix=f"a share of {np.ceil(1e6 * least) / 1e6:g} or more",
        )
    chosen = [unlabelled[permutation(derive(seed, "balanced", "none"), len(unlabelled))[:num_unlabelled]]]
    if len(classes):
        counts = np.bincount(labels[labelled])[classes]
        chosen.append(_drawn(labels, classes, _even(counts, num=num, seed=seed), seed=seed))
    return np.sort(np.concatenate(chosen))


def _even(counts: np.ndarray, *, num: int, seed: int) -> np.ndarray:
    """Distribute `num` images over classes of the given sizes so that the largest number is as small as possible."""
    levels = range(int(counts.max()) + 1)
    level = bisect.bisect_right(levels, num, key=lambda each: np.minimum(counts, each).sum()) - 1
    wanted = np.minimum(counts, level)
    order = permutation(derive(seed, "balanced", "extra"), len(counts))
    wanted[order[counts[order] > level][: num - wanted.sum()]] += 1
    return wanted


def long_tailed(labels: np.ndarray, *, imbalance: float, seed: int) -> np.ndarray:
    """Choose images so that class sizes fall exponentially with the class number.

    Class i of C contributes `floor(m · imbalance^(−i / (C − 1)))` images, where m is the size of the largest class: at
    least one, at most all it has. Source: Cui et al. 2019, Section 5.1; ten classes of 5,000 at 100 give 12,406.

    Args:
        labels: Int [n]; images without a label (-1) are left out.
        imbalance: Ratio of the first class size to the last, at least 1.
        seed: Random seed.

    Returns:
        Positions in `labels`, sorted.

    Raises:
        DataError: if there are fewer than two classes.
    """
    classes = _several_classes(labels)
    counts = np.bincount(labels[labels >= 0])[classes]
    falling = imbalance ** (-np.arange(len(classes)) / (len(classes) - 1))
    wanted = np.floor(counts.max() * falling + 1e-9).astype(int)
    return _drawn(labels, classes, np.minimum(counts, np.maximum(wanted, 1)), seed=seed)


def listed(names: Sequence[str], paths: Sequence[str], *, where: str) -> np.ndarray:
    """Return the positions in `paths` of the images that a list names.

    A name is a path relative to the data, the end of one, or a bare file name; a trailing class number is ignored, as
    in the lists of ImageNet-LT (`train/n01440764/n01440764_10026.JPEG 0`).

    Args:
        names: Lines of the list.
        paths: Relative paths of the training images.
        where: Name of the list for error messages.

    Returns:
        Positions, sorted.

    Raises:
        DataError: for a name that no training image or several have, or that is listed twice.
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
        matches = ends.get(line) or ends.get(_without_number(line))
        if matches is None:
            missing.append(line)
        elif len(matches) > 1:
            raise DataError(
                f"{plural(len(matches), 'training image')} are called {printable(line)}",
                where=where,
                why=f"{printable(paths[matches[0]])} and {printable(paths[matches[1]])}",
                fix="list paths relative to the data",
            )
        else:
            chosen.append(matches[0])
    if missing:
        raise DataError(
            f"{len(missing):,} of {plural(len(names), 'listed name')} match no usable training image",
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
    """Return those of the sorted rows `ids` that belong to the subset.

    Raises:
        DataError: see `share_of`, `long_tailed` and `listed`.
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
    """Draw the wanted number of images of each class; larger numbers include the same images. Sorted."""
    chosen = []
    for code, number in zip(classes, wanted, strict=True):
        members = np.flatnonzero(labels == code)
        chosen.append(members[permutation(derive(seed, "balanced", int(code)), len(members))[:number]])
    return np.sort(np.concatenate(chosen))


def holdout(labels: np.ndarray, *, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images into a training and a validation part, class by class.

    Args:
        labels: Int [n]; images without a label (-1) form a class of their own.
        share: Share of each class for the second part, rounded; a class of two or more has at least one in each part.
        seed: Random seed.

    Returns:
        Sorted positions of the two parts, which together cover all images.
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
