"""The images that an export is verified on, and others to calibrate with."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from vitlet.console import Teller
from vitlet.data.columns import cache_folder
from vitlet.data.digits import write_digits, write_small_digits
from vitlet.data.index import Index, open_index
from vitlet.data.loader import evaluation_batches
from vitlet.data.splits import SPLITS, TRAIN
from vitlet.errors import DataError, UsageError
from vitlet.evaluation.images import each_once
from vitlet.jobs.images import judged, opened
from vitlet.jobs.options import Options
from vitlet.rng import derive, permutation
from vitlet.text import plural
from vitlet.weights.detector import SavedDetector
from vitlet.weights.folder import Saved

PROOF_IMAGES = 256
DETECTOR_IMAGES = 64
"""At least so many for a detector, as each has many detections, and few images have boxes."""
DRAW = 8
"""Seed of the choice: the same images for every export of the same data."""
_FEWEST_CALIBRATION, _MOST_CALIBRATION = 64, 256


@dataclass(frozen=True)
class Witnesses:
    """The images that an export is verified on, and others to calibrate with."""

    images: UInt8[Tensor, "n 3 S S"]
    labels: NDArray[np.int64]
    """The model's class numbers; −1 for an image without a class that the model knows."""
    calibration: UInt8[Tensor, "m 3 S S"]
    """Disjoint from `images`; empty if not needed."""
    facts: dict[str, Any]
    """`name`, `fingerprint` and `split` for result files."""


def gather_witnesses(
    saved: Saved, images: str | os.PathLike[str] | None, *, calibrate: bool, options: Options, teller: Teller
) -> Witnesses:
    """Choose and decode the images.

    Raises:
        DataError: if there are fewer than 256 (64 for a detector), or 64 more if calibration needs its own.
    """
    index, good = _user_images(images, options, teller) if images is not None else _digits()
    fewest = DETECTOR_IMAGES if isinstance(saved, SavedDetector) else PROOF_IMAGES
    needed = fewest + (_FEWEST_CALIBRATION if calibrate else 0)
    if good.sum() < needed:
        raise DataError(
            f"{index.name} has {plural(int(good.sum()), 'usable image')}",
            why=f"An export is judged on {fewest}"
            + (f" and calibrated on {_FEWEST_CALIBRATION} others" if calibrate else ""),
            fix="give --images with more, or leave it out: the embedded digits are taken",
        )
    order = _held_out_first(index, good)
    chosen, rest = order[:PROOF_IMAGES], order[PROOF_IMAGES:][-_MOST_CALIBRATION:] if calibrate else order[:0]
    numbers = {name: i for i, name in enumerate(saved.classes)}
    ours = np.array([numbers.get(name, -1) for name in index.classes] + [-1])  # the last for images without a label
    names = [SPLITS[s] for s in np.unique(index.splits[chosen])]
    return Witnesses(
        images=_decoded(saved, index, chosen, options),
        labels=ours[index.labels[chosen]],
        calibration=_decoded(saved, index, rest, options),
        facts=index.facts() | {"split": " and ".join(names)},
    )


def _held_out_first(index: Index, good: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the usable rows, shuffled with a fixed seed, test and val before train."""
    rows = np.flatnonzero(good)
    rows = rows[permutation(derive(DRAW, "witnesses"), len(rows))]
    in_training = index.splits[rows] == TRAIN
    return np.concatenate([rows[~in_training], rows[in_training]])


def _user_images(images: str | os.PathLike[str], options: Options, teller: Teller) -> tuple[Index, NDArray[np.bool_]]:
    index = opened(images, options, teller)
    return index, judged(index, options, teller, training=False).good


def _digits() -> tuple[Index, NDArray[np.bool_]]:
    """Return the demo's digits if they are installed, else scikit-learn's, which always are."""
    cache = cache_folder()
    try:
        folder = write_digits(cache / "digits")
    except UsageError:
        folder = write_small_digits(cache / "small-digits")
    index = open_index(folder)
    return index, np.ones(len(index), dtype=bool)


def _decoded(saved: Saved, index: Index, rows: NDArray[np.int64], options: Options) -> Tensor:
    size = saved.encoder.config.image_size
    if not len(rows):
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    workers = options.num_workers(image_size=size)
    batches = evaluation_batches(
        index, rows, view=saved.evaluation, workers=workers, normalisation=saved.encoder.normalisation
    )
    return torch.cat([batch.images for batch in each_once(batches)]).contiguous()
