"""Which detections of two models on the same images are the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

_SAME = 1e-3
"""How far the same detection may be off, as a share of the largest box coordinate and the largest score of its image.

Far more than rounding, and far less than the distance to any other: a step that compares, such as the suppression of
overlapping boxes, can turn rounding into another detection.
"""


@dataclass(frozen=True)
class Matched:
    """Two models' detections beside each other."""

    relative_errors: dict[str, float]
    """By output: the largest difference within a pair over the original's largest magnitude on the image."""
    share: float
    """Share of the judged detections that have a partner; NaN if none was judged."""
    num_judged: int
    """Detections of both, without those whose score is within a thousandth of the lowest that is reported."""


def match(original: Mapping[str, NDArray[np.float32]], exported: Mapping[str, NDArray[np.float32]]) -> Matched:
    """Pair the detections of two models, image by image.

    Two are a pair if their class is the same and box and score are within a thousandth of the image's largest. Scores
    at the lowest that is reported (of an image, if its list is full, else of all images) are not judged: whether these
    are still reported is a matter of rounding.

    Args:
        original: `boxes` (n M 4), `labels` (n M), `scores` (n M, descending, 0 where nothing is) and perhaps `masks`
            (n M 28 28).
        exported: The same outputs of the other model.
    """
    scores = original["scores"], exported["scores"]
    positive = [values[values > 0] for values in scores]
    lowest = np.min(np.concatenate(positive), initial=np.inf)
    floor = np.maximum(np.maximum(scores[0][:, -1:], scores[1][:, -1:]), lowest) * (1 + _SAME)
    partners = np.full(scores[0].shape, -1), np.full(scores[1].shape, -1)
    for image in range(len(scores[0])):
        near = _near({k: v[image] for k, v in original.items()}, {k: v[image] for k, v in exported.items()})
        for row, candidates in enumerate(near):
            free = np.flatnonzero(candidates & (partners[1][image] < 0))
            if len(free):
                partners[0][image, row], partners[1][image, free[0]] = free[0], row
    judged = [values > floor for values in scores]
    paired = sum(int((chosen & (other >= 0)).sum()) for chosen, other in zip(judged, partners, strict=True))
    num_judged = sum(int(chosen.sum()) for chosen in judged)
    errors = {name: _error(original[name], exported[name], partners[0]) for name in original if name != "labels"}
    return Matched(errors, paired / num_judged if num_judged else np.nan, num_judged)


def _near(a: Mapping[str, NDArray[np.float32]], b: Mapping[str, NDArray[np.float32]]) -> Bool[np.ndarray, "M M"]:
    """Whether each detection of one image in `a` may be each of those in `b`."""
    boxes = np.abs(a["boxes"][:, None] - b["boxes"][None]).max(axis=2) <= _SAME * np.abs(a["boxes"]).max()
    scores = np.abs(a["scores"][:, None] - b["scores"][None]) <= _SAME * a["scores"].max()
    there = (a["scores"][:, None] > 0) & (b["scores"][None] > 0)
    return boxes & scores & there & (a["labels"][:, None] == b["labels"][None])


def _error(a: Float[np.ndarray, "n M *_"], b: Float[np.ndarray, "n M *_"], partners: NDArray[np.int64]) -> float:
    """The largest difference within a pair; NaN if any value is, 0 without pairs."""
    worst = [0.0]
    for ours, theirs, other in zip(a, b, partners, strict=True):
        rows = np.flatnonzero(other >= 0)
        if len(rows):
            worst.append(float(np.abs(ours[rows] - theirs[other[rows]]).max() / np.abs(ours[rows]).max()))
    return float(np.max(worst))
