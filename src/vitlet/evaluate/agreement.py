"""Does an exported model say the same? Its outputs on real images beside those of the model it was made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_TIE = 1e-5
"""Cosines nearer than this are the same neighbour: images that are alike stand at the same distance."""


@dataclass(frozen=True)
class Tolerance:
    """How far an exported model may be from its origin."""

    max_relative_error: float | None
    """Of any output on any image; None: not limited, where fewer bits are the purpose."""
    top1_agreement: float
    """Share of the images of which both say the same first."""
    accuracy_loss: float | None = None
    """In shares of 1; None: the agreement alone limits it."""


FP32 = Tolerance(max_relative_error=1e-4, top1_agreement=0.999)
INT8 = Tolerance(max_relative_error=None, top1_agreement=0.95, accuracy_loss=0.02)
INT8_ENCODER = Tolerance(max_relative_error=None, top1_agreement=0.85)
"""Nearest neighbours among features that all point much the same way, as a masked autoencoder's do, change sooner."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1, in shares of 1, on the images that have a label the model knows."""

    original: float
    exported: float
    n: int

    @property
    def difference(self) -> float:
        """Exported minus original."""
        return self.exported - self.original


@dataclass(frozen=True)
class Agreement:
    """What was found on `n` images."""

    max_relative_error: float
    relative_errors: dict[str, float]
    """By output."""
    top1_agreement: float
    top1_of: str
    """`class`, or `nearest neighbour` where the model has no classes."""
    n: int
    accuracy: Accuracy | None

    def shortcomings(self, allowed: Tolerance) -> list[str]:
        """What is beyond the tolerance, as clauses; empty when all is well. A NaN is beyond everything."""
        found = []
        limit = allowed.max_relative_error
        if not np.isfinite(self.max_relative_error) or (limit is not None and not self.max_relative_error <= limit):
            found.append(f"a relative error of {self.max_relative_error:.1e}, of {limit or np.inf:.0e} allowed")
        if not self.top1_agreement >= allowed.top1_agreement:
            found.append(
                f"the same {self.top1_of} for {100 * self.top1_agreement:.1f} % of {self.n} images, "
                f"{100 * allowed.top1_agreement:.1f} % needed"
            )
        lost = 0.0 if self.accuracy is None else -self.accuracy.difference
        if allowed.accuracy_loss is not None and lost > allowed.accuracy_loss:
            found.append(f"{100 * lost:.1f} points of accuracy lost, {100 * allowed.accuracy_loss:.1f} allowed")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values; an error that is no number is null."""
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
        original: `logits` (n C), or `features` (n D) and perhaps `tokens` (n T D).
        exported: The same names and shapes.
        labels: Class numbers of the model; −1 where an image has none.

    Returns:
        The relative error of an image is the largest difference over the largest magnitude in the original's output.
    """
    assert original.keys() == exported.keys()
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


def relative_error(original: NDArray[np.float32], exported: NDArray[np.float32]) -> float:
    """The worst image's largest difference over its largest magnitude; NaN if anything is."""
    assert original.shape == exported.shape, f"{exported.shape} is not {original.shape}"
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (original, exported))
    return float((np.abs(a - b).max(axis=1) / np.maximum(np.abs(a).max(axis=1), 1e-12)).max())


def same_neighbours(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> NDArray[np.bool_]:
    """Whether each image's nearest other by cosine in `b` is a nearest one in `a` too."""
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
    known = labels >= 0
    if not known.any():
        return None
    first, second = (float((v[known].argmax(axis=1) == labels[known]).mean()) for v in (original, exported))
    return Accuracy(first, second, int(known.sum()))
