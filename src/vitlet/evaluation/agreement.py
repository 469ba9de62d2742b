"""Agreement of an exported model with the model it was made from, measured on real images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from vitlet.evaluation.detection.matching import Matched, match

_TIE = 1e-5
"""Cosines closer than this count as the same neighbour, since similar images lie at the same distance."""


@dataclass(frozen=True)
class Tolerance:
    """How far an exported model may deviate from the original."""

    max_relative_error: float | None
    """Of any output on any image; None: unlimited, for exports that reduce precision on purpose."""
    top1_agreement: float
    """Share of the images on which both give the same top answer; of the detections that are the same."""
    accuracy_loss: float | None = None
    """In shares of 1; None: limited by the agreement alone."""


FP32 = Tolerance(max_relative_error=1e-4, top1_agreement=0.999)
INT8 = Tolerance(max_relative_error=None, top1_agreement=0.95, accuracy_loss=0.02)
"""Lower on purpose: 8 bits change classes that were close. Guide, `proof.json` and card state it with that of fp32."""
INT8_ENCODER = Tolerance(max_relative_error=None, top1_agreement=0.85)
"""Lower: nearest neighbours change sooner if all features point in similar directions, as a masked autoencoder's do."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1, in shares of 1, on the images whose label the model knows."""

    original: float
    exported: float
    n: int

    @property
    def difference(self) -> float:
        """Exported minus original."""
        return self.exported - self.original


@dataclass(frozen=True)
class Agreement:
    """Agreement measured on `n` images."""

    max_relative_error: float
    relative_errors: dict[str, float]
    """By output."""
    top1_agreement: float
    top1_of: str
    """`class`, or `nearest neighbour` if the model has no classes; `class, box and score` of a detector."""
    n: int
    accuracy: Accuracy | None
    num_detections: int | None = None
    """Detections of both that were judged; None if the model finds no objects."""

    def shortcomings(self, allowed: Tolerance) -> list[str]:
        """Describe each violated tolerance by a clause; empty if there is none. A NaN violates every tolerance."""
        clauses = []
        limit = allowed.max_relative_error
        if not np.isfinite(self.max_relative_error) or (limit is not None and not self.max_relative_error <= limit):
            clauses.append(f"a relative error of {self.max_relative_error:.1e}, of {limit or np.inf:.0e} allowed")
        if not self.top1_agreement >= allowed.top1_agreement:
            clauses.append(
                f"the same {self.top1_of} for {100 * self.top1_agreement:.1f} % of {self._judged}, "
                f"{100 * allowed.top1_agreement:.1f} % needed"
            )
        lost = 0.0 if self.accuracy is None else -self.accuracy.difference
        if allowed.accuracy_loss is not None and lost > allowed.accuracy_loss:
            clauses.append(f"{100 * lost:.1f} points of accuracy lost, {100 * allowed.accuracy_loss:.1f} allowed")
        return clauses

    @property
    def _judged(self) -> str:
        return f"{self.n} images" if self.num_detections is None else f"{self.num_detections} detections"

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values; a NaN or infinite error becomes null."""
        values = asdict(self)
        if self.accuracy is not None:
            values["accuracy"]["difference"] = self.accuracy.difference
        return values


def agreement(
    original: Mapping[str, NDArray[np.float32]],
    exported: Mapping[str, NDArray[np.float32]],
    *,
    labels: Int[np.ndarray, "n"],
) -> Agreement:
    """Compare outputs by name, image by image.

    Args:
        original: `logits` (n C), or `features` (n D) and optionally `tokens` (n T D), or the outputs of a detector as
            `match` takes them.
        exported: Outputs with the same names and shapes.
        labels: The model's class numbers; −1 for an image without one.

    Returns:
        The agreement. The relative error of an image is its largest difference over the original's largest magnitude;
        of a detector, its largest difference within a pair of detections that `match` finds.
    """
    assert original.keys() == exported.keys()
    if "scores" in original:
        return _of_detections(match(original, exported), n=len(labels))
    errors = {name: relative_error(original[name], exported[name]) for name in original}
    accuracy = None
    if "logits" in original:
        same = original["logits"].argmax(axis=1) == exported["logits"].argmax(axis=1)
        accuracy = _accuracy(original["logits"], exported["logits"], labels)
    else:
        same = same_neighbours(original["features"], exported["features"])
    return Agreement(
        max_relative_error=float(np.max(list(errors.values()))),
        relative_errors=errors,
        top1_agreement=float(same.mean()),
        top1_of="class" if "logits" in original else "nearest neighbour",
        n=len(same),
        accuracy=accuracy,
    )


def _of_detections(found: Matched, *, n: int) -> Agreement:
    return Agreement(
        max_relative_error=float(np.max(list(found.relative_errors.values()))),
        relative_errors=found.relative_errors,
        top1_agreement=found.share,
        top1_of="class, box and score",
        n=n,
        accuracy=None,
        num_detections=found.num_judged,
    )


def relative_error(original: NDArray[np.float32], exported: NDArray[np.float32]) -> float:
    """The largest difference of the worst image over its largest magnitude; NaN if any value is."""
    assert original.shape == exported.shape, f"{exported.shape} is not {original.shape}"
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (original, exported))
    return float((np.abs(a - b).max(axis=1) / np.maximum(np.abs(a).max(axis=1), 1e-12)).max())


def same_neighbours(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> NDArray[np.bool_]:
    """Whether each image's nearest other image by cosine in `b` is also a nearest one in `a`."""
    there, here = _cosines(b), _cosines(a)
    chosen = there.argmax(axis=1)
    return here[np.arange(len(here)), chosen] >= here.max(axis=1) - _TIE


def _cosines(features: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = features.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


def _accuracy(original: NDArray[Any], exported: NDArray[Any], labels: NDArray[Any]) -> Accuracy | None:
    has_label = labels >= 0
    if not has_label.any():
        return None
    first, second = (float((v[has_label].argmax(axis=1) == labels[has_label]).mean()) for v in (original, exported))
    return Accuracy(first, second, int(has_label.sum()))
