"""Logistic regression on standardised frozen features, by scikit-learn.

Its one setting, the regularisation, is chosen on held-out fifths of the training set. Import this module where it is
used: scikit-learn takes a second or two to load.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from vitlet.evaluation import labels
from vitlet.evaluation.probe import PARTS, ProbeResult, held_out

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C tried, strongest regularisation first; with equal scores the first wins."""
FALLBACK = 1e-2
"""C if no class has a second image to hold out."""
_ONE_PART_FROM = 10_000
"""Training images from which one part is enough to choose C; with few, a wrong C costs several points."""
MAX_ITERATIONS = 2000
_THREADS_FROM = 4_000_000
"""Size of the features, n·D, from which the solver's products are worth more than one thread: below it, waiting for
each other takes threads longer than their products."""


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
    usable = labels.usable(train.double(), train_labels, test.double(), test_labels, classes=classes)
    x, y, x_test, y_test = (rows.cpu().numpy() for rows in usable)
    parts = [held_out(y, seed=seed, part=part) for part in range(PARTS if len(y) < _ONE_PART_FROM else 1)]
    # Once for all fits: it looks through every library of the process.
    with threadpool_limits(None if x.size >= _THREADS_FROM else 1, user_api="blas"):
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
    return ProbeResult.of("logistic", correct, settings)


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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x, y)
    return model, not any(issubclass(w.category, ConvergenceWarning) for w in caught)
