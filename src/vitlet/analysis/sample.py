"""The choice of images to analyse: equally many per class where possible, in an order that mixes the classes."""

import numpy as np
from jaxtyping import Int

from vitlet.analysis.similarity import MIN_IMAGES
from vitlet.errors import DataError
from vitlet.rng import derive, permutation
from vitlet.text import plural


def choose(labels: Int[np.ndarray, "n"], *, num: int, seed: int, folder_order: bool = False) -> Int[np.ndarray, "k"]:
    """Positions of `num` images (or of all, if there are fewer), in the order of processing.

    Every class contributes equally many until it runs out; unlabelled images count as a class. Batches are cut from
    this order, so each batch holds a mixture.

    Args:
        labels: Classes, -1 for none.
        num: Number of images.
        seed: Decides which images, and their order.
        folder_order: Take the first `num` in index order, as the paper's code does: on ImageNet's validation set those
            are from about 23 of the 1,000 classes.
    """
    if folder_order:
        return np.arange(min(num, len(labels)))
    turn = np.empty(len(labels), dtype=np.int64)
    for code in np.unique(labels):
        members = np.flatnonzero(labels == code)
        turn[members[permutation(derive(seed, "analysed", int(code)), len(members))]] = np.arange(len(members))
    mixed = permutation(derive(seed, "analysed", "order"), len(labels))
    by_turn = mixed[np.argsort(turn[mixed], kind="stable")][:num]
    return by_turn[permutation(derive(seed, "analysed", "visit"), len(by_turn))]


def even_batches(num_images: int, *, batch_size: int) -> tuple[int, int]:
    """Number of images to use and batch size, such that all batches have the same size.

    Every batch has the same weight in CKA, and a small one is noisy. A few images are dropped for this, fewer than
    there are batches.

    Raises:
        DataError: for fewer than four images.
    """
    assert batch_size >= MIN_IMAGES
    if num_images < MIN_IMAGES:
        raise DataError(
            f"{plural(num_images, 'image')} to analyse",
            why=f"The unbiased estimator of CKA needs {MIN_IMAGES} in a batch",
            fix="give more images",
        )
    batches = max(1, num_images // batch_size)
    size = min(num_images // batches, 2 * batch_size)
    return batches * size, size
