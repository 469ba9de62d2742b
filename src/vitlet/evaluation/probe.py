"""Probes: how well labels can be read from frozen features. Here the nearest neighbours, and what all probes share.

A setting of a probe is chosen on held-out fifths of the *training* set; the test set is used once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlet import rng
from vitlet.evaluation import labels
from vitlet.evaluation.knn import knn_predict

PARTS = 5
"""Stratified parts of the training set."""


@dataclass(frozen=True)
class ProbeResult:
    """An accuracy on labelled test images, image by image, and how it was obtained."""

    protocol: str
    top1: float
    """Share of correct answers, 0 … 1."""
    n: int
    """Number of labelled test images."""
    correct: Bool[np.ndarray, "n"]
    settings: dict[str, Any]
    """Plain values for the result file."""

    @classmethod
    def of(cls, protocol: str, correct: Bool[np.ndarray, "n"], settings: dict[str, Any]) -> "ProbeResult":
        """Count the correct answers."""
        return cls(protocol, float(correct.mean()), len(correct), correct, settings)


def knn_probe(
    train: Float[Tensor, "n D"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m D"],
    test_labels: Int[Tensor, "m"],
    *,
    k: int = 20,
    temperature: float | None = 0.07,
    classes: Sequence[str] = (),
) -> ProbeResult:
    """Top-1 of k nearest neighbours; rows labelled -1 are left out.

    Raises:
        DataError: as `labels.require`.
    """
    x, y, x_test, y_test = labels.usable(train, train_labels, test, test_labels, classes=classes)
    predicted = knn_predict(x, y, x_test, num_classes=int(y.max()) + 1, k=k, temperature=temperature)
    return ProbeResult.of("knn", (predicted == y_test.cpu()).numpy(), {"k": k, "temperature": temperature})


def held_out(y: Int[np.ndarray, "n"], *, seed: int, part: int = 0) -> Bool[np.ndarray, "n"]:
    """True for a fifth of each class, at least one image and never its last; depends only on seed, part and labels.

    The fifths of different parts are disjoint, save for classes of fewer than five images.
    """
    chosen = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        count = min(max(1, round(len(rows) / PARTS)), len(rows) - 1)
        # The key is from the first probe that chose this way; every stored result of the others depends on it too.
        order = rng.permutation(rng.derive(seed, "logistic probe", int(label)), len(rows))
        chosen[rows[np.roll(order, -(part * len(rows) // PARTS))[:count]]] = True
    return chosen
