"""Probes: how well labels can be read from frozen features, by nearest neighbours and by a linear classifier.

The linear probe is scikit-learn's logistic regression on standardised features. Its one setting, the regularisation,
is chosen on held-out fifths of the *training* set; the test set is used once, at the end.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from vitlet import rng
from vitlet.evaluate import labels
from vitlet.evaluate.knn import knn_predict

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C tried, strongest regularisation first; with equal scores the first wins."""
FALLBACK = 1e-2
"""C if no class has a second image to hold out."""
PARTS = 5
"""Stratified parts of the training set. With few images one part is a poor judge: a wrong C costs several points."""
_ONE_PART_FROM = 10_000
"""Training images from which one part is enough to choose C."""
MAX_ITERATIONS = 2000
_THREADS_FROM = 4_000_000
"""Size of the features, n·D, from which the solver's products are worth more than one thread: below it, waiting for
each other takes threads longer than their products."""


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
    labels.require(train_labels, test_labels, classes=classes)
    train, train_labels = labels.labelled(train, train_labels)
    test, test_labels = labels.labelled(test, test_labels)
    num_classes = int(train_labels.max()) + 1
    predicted = knn_predict(train, train_labels, test, num_classes=num_classes, k=k, temperature=temperature)
    return _result("knn", (predicted == test_labels.cpu()).numpy(), {"k": k, "temperature": temperature})


def logistic_probe(
    train: Float[Tensor, "n D"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m D"],
    test_labels: Int[Tensor, "m"],
    *,
    seed: int,
    classes: Sequence[str] = (),
) -> ProbeResult:
    """Top-1 of logistic regression on features standardised by the training set; rows labelled -1 are left out.

    Args:
        train: Features of the training images.
        train_labels: Their classes, -1 for none.
        test: Features of the test images.
        test_labels: Their classes, -1 for none.
        seed: Seed of the parts of the training set on which C is chosen.
        classes: Class names for messages.

    Raises:
        DataError: as `labels.require`.
    """
    labels.require(train_labels, test_labels, classes=classes)
    x, y = (t.cpu().numpy() for t in labels.labelled(train.double(), train_labels))
    x_test, y_test = (t.cpu().numpy() for t in labels.labelled(test.double(), test_labels))
    parts = [held_out(y, seed=seed, part=part) for part in range(PARTS if len(y) < _ONE_PART_FROM else 1)]
    scores = _scores(x, y, parts) if parts[0].any() else {}
    best = max(scores, key=scores.__getitem__) if scores else FALLBACK  # max keeps the first of equals
    scaler = StandardScaler().fit(x)
    model, converged = _fit(LogisticRegression(C=best, max_iter=MAX_ITERATIONS), _standardise(scaler, x), y)
    correct = np.equal(model.predict(_standardise(scaler, x_test)), y_test)
    settings = {
        "C": best,
        "chosen_on": _words(parts) if scores else "nothing: one image a class",
        "held_out_top1": {str(c): score for c, score in scores.items()},
        "converged": converged,
        "seed": seed,
    }
    return _result("logistic", correct, settings)


def held_out(y: Int[np.ndarray, "n"], *, seed: int, part: int = 0) -> Bool[np.ndarray, "n"]:
    """True for a fifth of each class, at least one image and never its last; depends only on seed, part and labels.

    The fifths of different parts are disjoint, save for classes of fewer than five images.
    """
    chosen = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        count = min(max(1, round(len(rows) / PARTS)), len(rows) - 1)
        order = rng.permutation(rng.derive(seed, "logistic probe", int(label)), len(rows))
        chosen[rows[np.roll(order, -(part * len(rows) // PARTS))[:count]]] = True
    return chosen


def _scores(
    x: Float[np.ndarray, "n D"], y: Int[np.ndarray, "n"], parts: Sequence[Bool[np.ndarray, "n"]]
) -> dict[float, float]:
    """Mean top-1 on the held-out rows of all parts for every C of the grid, each fitted on the other rows."""
    every = [_scores_on(x, y, held) for held in parts]
    return {c: float(np.mean([scores[c] for scores in every])) for c in GRID}


def _scores_on(x: Float[np.ndarray, "n D"], y: Int[np.ndarray, "n"], held: Bool[np.ndarray, "n"]) -> dict[float, float]:
    """Top-1 on the held-out rows for every C of the grid; each fit starts from the previous."""
    scaler = StandardScaler().fit(x[~held])
    fit_x, held_x = _standardise(scaler, x[~held]), _standardise(scaler, x[held])
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    scores = {}
    for c in GRID:
        model, _ = _fit(model.set_params(C=c), fit_x, y[~held])
        scores[c] = float(np.equal(model.predict(held_x), y[held]).mean())
    return scores


def _words(parts: Sequence[Bool[np.ndarray, "n"]]) -> str:
    if len(parts) > 1:
        return f"{len(parts)} parts of the training images, each held out once"
    return f"{int(parts[0].sum())} held-out training images"


def _standardise(scaler: StandardScaler, x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    return np.asarray(scaler.transform(x))


def _fit(
    model: LogisticRegression, x: Float[np.ndarray, "n D"], y: Int[np.ndarray, "n"]
) -> tuple[LogisticRegression, bool]:
    """The fitted model, and whether the solver reached its tolerance."""
    threads = threadpool_limits(None if x.size >= _THREADS_FROM else 1, user_api="blas")
    with threads, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x, y)
    return model, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _result(protocol: str, correct: np.ndarray, settings: dict[str, Any]) -> ProbeResult:
    return ProbeResult(protocol, float(correct.mean()), len(correct), correct, settings)
