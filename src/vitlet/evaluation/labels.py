"""Checks that labels can be learned and evaluated, with a specific error message for each failure."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from vitlet.data.classes import class_name, single_class
from vitlet.data.splits import HELD_OUT
from vitlet.errors import DataError
from vitlet.text import plural

_SHOWN = 5


def usable(
    train: Float[Tensor, "n *_"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m *_"],
    test_labels: Int[Tensor, "m"],
    *,
    classes: Sequence[str] = (),
) -> tuple[Float[Tensor, "j *_"], Int[Tensor, "j"], Float[Tensor, "k *_"], Int[Tensor, "k"]]:
    """Select the rows with a label of both sets, for a probe.

    Raises:
        DataError: as `require`.
    """
    require(train_labels, test_labels, classes=classes)
    return *_labelled(train, train_labels), *_labelled(test, test_labels)


def require(
    train: Int[Tensor, "n"],
    test: Int[Tensor, "m"],
    *,
    classes: Sequence[str] = (),
    split: str = "test",
    where: str = "",
) -> None:
    """Reject labels that cannot be learned from `train` and evaluated on `test`.

    Args:
        train: Labels of the training images; -1 means none.
        test: Labels of the test images; -1 means none.
        classes: Class names for messages; without them numbers are shown.
        split: Name of the test images.
        where: Name of the data.

    Raises:
        DataError: for an empty split, a split without labels, a single class, or a class that occurs only in `test`.
    """
    _require_some(train, "training", where)
    _require_some(test, split, where)
    present = set(train[train >= 0].tolist())
    if len(present) == 1:
        images = plural(int((train >= 0).sum()), "labelled training image")
        raise single_class(f"{images} of a single class, {_names(present, classes)}", where)
    unseen = set(test[test >= 0].tolist()) - present
    if unseen:
        raise DataError(
            f"{plural(len(unseen), 'class', 'classes')} in the {split} split only: {_names(unseen, classes)}",
            where=where,
            why="No training image shows what they look like, so they would all count as errors",
            fix=f"add training images of them, or take them out of the {split} split",
        )


def _labelled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    has_label = labels >= 0
    return features[has_label], labels[has_label]


def _require_some(labels: Int[Tensor, "n"], split: str, where: str) -> None:
    if not len(labels):
        fix = "check the folder or the manifest's split column"
        if split == HELD_OUT:
            fix = "two images or more of a class, or a test split"
        raise DataError(f"the {split} split is empty", where=where, fix=fix)
    if not (labels >= 0).any():
        raise DataError(
            f"none of the {plural(len(labels), f'{split} image')} has a label",
            where=where,
            why="Predictions are compared with labels",
            fix="add labels for evaluation, or rely on the feature health, which needs none",
        )


def _names(numbers: set[int], classes: Sequence[str]) -> str:
    rest = ", …" if len(numbers) > _SHOWN else ""
    return ", ".join(class_name(number, classes) for number in sorted(numbers)[:_SHOWN]) + rest
