"""Which images are the same, or nearly: equal bytes, or thumbnails of 9 × 8 pixels that agree.

Source: dHash (Krawetz, 2013): 64 bits, each whether a pixel of the thumbnail is darker than its right neighbour. It
survives scaling and re-encoding, and finds candidates quickly. *Difference*: candidates must also correlate as
thumbnails, because scans of handwriting, with much empty ground, share their hash with strangers.
"""

import numpy as np
from jaxtyping import UInt8, UInt64
from torch import Tensor
from torch.nn.functional import interpolate

THUMBNAIL = (8, 9)
"""Rows and columns."""

MAX_DISTANCE = 3
"""Bits in which the hashes of near duplicates may differ."""

MIN_CORRELATION = 0.995
"""Of the thumbnails of near duplicates."""

_MARGIN = 2  # grey levels; below it the order of two pixels is noise
_MIN_BITS, _MAX_BITS = 8, 56  # outside there is too little texture to tell images apart
# Four bands of 16 bits: hashes that differ in three bits agree in one band. Crowded buckets are searched this far.
_BANDS, _REACH = 4, 32


def thumbnail(pixels: UInt8[Tensor, "3 H W"]) -> UInt8[np.ndarray, "8 9"]:
    """The image in grey, 8 rows of 9 pixels."""
    small = interpolate(pixels.unsqueeze(0), size=THUMBNAIL, mode="bilinear", antialias=True)[0]
    return small.float().mean(dim=0).round().byte().numpy()


def dhash(thumbnails: UInt8[np.ndarray, "n 8 9"]) -> UInt64[np.ndarray, " n"]:
    """The 64 bits of each thumbnail."""
    levels = thumbnails.astype(np.int16)
    bits = levels[:, :, 1:] - levels[:, :, :-1] > _MARGIN
    return np.packbits(bits.reshape(len(bits), 64), axis=1).view(np.uint64).reshape(-1)


def equal_pairs(digests: np.ndarray) -> np.ndarray:
    """Int64 [pairs, 2]: each position whose digest (`S32` [n]) came before, with the first that has it."""
    _, firsts, groups = np.unique(digests, return_index=True, return_inverse=True)
    first = firsts[groups]
    repeats = np.flatnonzero(first != np.arange(len(digests)))
    return np.stack([first[repeats], repeats], axis=1)


def shared_pairs(reference: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Int64 [pairs, 2]: the first place in `reference`, and the place in `digests`, of what stands in both."""
    known, firsts = np.unique(reference, return_index=True)
    if not len(known):
        return np.empty((0, 2), dtype=np.int64)
    places = np.minimum(np.searchsorted(known, digests), len(known) - 1)
    found = np.flatnonzero(known[places] == digests)
    return np.stack([firsts[places[found]], found], axis=1)


def near_pairs(thumbnails: UInt8[np.ndarray, "n 8 9"]) -> np.ndarray:
    """Pairs of positions whose thumbnails agree in `MAX_DISTANCE` and `MIN_CORRELATION`.

    Returns:
        Int64 [pairs, 2], each pair once with the smaller position first, sorted. In a bucket of more than 32 hashes
        that share a band, each is compared with its 32 followers only.
    """
    hashes = dhash(thumbnails)
    bits = np.bitwise_count(hashes)
    textured = np.flatnonzero((bits >= _MIN_BITS) & (bits <= _MAX_BITS))
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(_BANDS):
        keys = (hashes[textured] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        by_key = np.lexsort((hashes[textured], keys))
        order, keys = textured[by_key], keys[by_key]
        for step in range(1, min(_REACH, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            near = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_DISTANCE
            near &= keys[:-step] == keys[step:]
            found.append(np.stack([first[near], second[near]], axis=1))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs[_correlation(thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]]) >= MIN_CORRELATION]


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), 72).astype(np.float64) for x in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
