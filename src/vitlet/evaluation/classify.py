"""Accuracy of a classifier over every labelled image of a split."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import DataError, NonFiniteError
from vitlet.evaluation.images import each_once
from vitlet.text import plural


def topk(logits: Float[Tensor, "B C"], labels: Int[Tensor, "B"], k: int) -> Bool[Tensor, "B"]:
    """Whether each label is among the k largest logits.

    Ties go to the smaller class number, as with `argmax`: a network that scores all classes equally is right if the
    label is below k, not always. A NaN is never right.
    """
    target = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    ahead = ~(logits <= target) | ((logits == target) & (classes < labels[:, None]))
    return ahead.sum(dim=1) < k


def any_right(logits: Float[Tensor, "B C"], right: Sequence[Sequence[int]], k: int) -> Bool[Tensor, "B"]:
    """Whether any of the right classes of an image, of which there is one or more, is among its k largest logits."""
    images = torch.tensor([image for image, classes in enumerate(right) for _ in classes], dtype=torch.long)
    classes = torch.tensor([number for numbers in right for number in numbers], dtype=torch.long)
    found = torch.zeros(len(right), dtype=torch.bool)
    found[images[topk(logits[images], classes, k)]] = True
    return found


def hits(
    forward: Callable[[Tensor], Tensor],
    loader: Iterable[Batch],
    right: Callable[[Batch], Sequence[Sequence[int]]],
    *,
    device: torch.device | str = "cpu",
) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"], int]:
    """Return which images have a right class first, and which among the first five; and the number of classes.

    Args:
        forward: Maps images (uint8, B 3 H W) to logits (B C); already in evaluation mode.
        loader: Batches of one split, each image once; with several ranks, this rank's share.
        right: For each image of a batch the classes that are right; those without any are left out of the result.
        device: Device on which `forward` expects its images.

    Raises:
        DataError: as `each_once`; if a right class exceeds those of the head.
        NonFiniteError: if a logit is NaN or infinite.
    """
    first, fifth = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.bool)]
    num_classes = 0
    with torch.inference_mode():
        for batch in each_once(loader):
            logits, answers = forward(batch.images.to(device)).float().cpu(), right(batch)
            num_classes = logits.shape[1]
            _require_usable(logits, answers)
            answered = [image for image, classes in enumerate(answers) if classes]
            answers = [answers[image] for image in answered]
            first.append(any_right(logits[answered], answers, 1))
            fifth.append(any_right(logits[answered], answers, 5))
    return torch.cat(first), torch.cat(fifth), num_classes


def evaluate_classifier(
    forward: Callable[[Tensor], Tensor], loader: Iterable[Batch], *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Compute top-1 and top-5 over all labelled images of `loader`.

    Args:
        forward: Maps images (uint8, B 3 H W) to logits (B C); already in evaluation mode.
        loader: Batches of one split, each image once.
        device: Device on which `forward` expects its images.

    Returns:
        `top1` and `top5` (shares of 1; `top5` is None for five classes or fewer, where it is meaningless), `n`, and
        `correct`: a bool array of top-1 hits in the loader's order.

    Raises:
        DataError: as `each_once`; if no image has a label, or a label exceeds the classes of the head.
        NonFiniteError: if a logit is NaN or infinite.
    """
    first, fifth, num_classes = hits(forward, loader, _labels, device=device)
    correct = first.numpy()
    if not len(correct):
        raise DataError(
            "none of the images to evaluate has a label",
            fix="check the split, or give class folders or a manifest with a label column",
        )
    return {
        "top1": float(correct.mean()),
        "top5": float(fifth.double().mean()) if num_classes > 5 else None,
        "n": len(correct),
        "correct": correct,
    }


def _labels(batch: Batch) -> list[tuple[int, ...]]:
    return [(label,) if label >= 0 else () for label in batch.labels.tolist()]


def _require_usable(logits: Float[Tensor, "B C"], right: Sequence[Sequence[int]]) -> None:
    if not logits.isfinite().all():
        raise NonFiniteError(
            "the classifier gives NaN or infinite scores",
            why="The weights are damaged, or the training that made them diverged",
            fix="evaluate an earlier checkpoint, or train again with a lower optimizer.base_lr",
        )
    largest, num_classes = max((max(classes) for classes in right if classes), default=-1), logits.shape[1]
    if largest >= num_classes:
        raise DataError(
            f"the data has a class number {largest}, the head knows {plural(num_classes, 'class', 'classes')}",
            why="Head and data were made for different lists of classes",
            fix="evaluate on data with the classes of the training run, or fine-tune a new head",
        )
