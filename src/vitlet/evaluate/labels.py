"""Which labels a probe can work with, and a message of its own for each case that it cannot."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlet.errors import DataError
from vitlet.text import plural, printable


def labelled(features: Float[Tensor, "n D"], labels: Int[Tensor, "n"]) -> tuple[Float[Tensor, "k D"], Int[Tensor, "k"]]:
    """The rows that have a label; -1 means none."""
    known = labels >= 0
    return features[known], labels[known]


def require(train: Int[Tensor, "n"], test: Int[Tensor, "m"], *, classes: Sequence[str] = ()) -> None:
    """Refuse labels that cannot be learned from `train` and counted on `test`.

    Args:
        train: Labels of the training images; -1 means none.
        test: Labels of the test images; -1 means none.
        classes: Names for the messages, by number; numbers are shown without them.

    Raises:
        DataError: for an empty split, a split without labels, a single class, and a class that only `test` holds.
    """
    _require_some(train, "training")
    _require_some(test, "test")
    counts = torch.bincount(train[train >= 0])
    present = counts.nonzero().flatten().tolist()
    if len(present) == 1:
        images = plural(int(counts.sum()), "labelled training image")
        raise DataError(
            f"{images} of a single class, {_name(present[0], classes)}",
            why="With one class there is nothing to tell apart, so accuracy would say nothing",
            fix="give images of at least two classes; pre-training itself works as it is",
        )
    missing = sorted(set(test[test >= 0].tolist()) - set(present))
    if missing:
        shown = ", ".join(_name(number, classes) for number in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(
            f"{plural(len(missing), 'class', 'classes')} in the test split only: {shown}",
            why="No training image shows what they look like, so they would all count as errors",
            fix="add training images of them, or take them out of the test split",
        )


def _require_some(labels: Int[Tensor, "n"], split: str) -> None:
    if not len(labels):
        raise DataError(f"the {split} split is empty", fix="check the folder or the manifest's split column")
    if not (labels >= 0).any():
        raise DataError(
            f"none of the {plural(len(labels), f'{split} image')} has a label",
            why="A probe compares predictions with labels",
            fix="add labels for evaluation, or rely on the feature health, which needs none",
        )


def _name(number: int, classes: Sequence[str]) -> str:
    return f"'{printable(classes[number])}'" if number < len(classes) else str(number)
