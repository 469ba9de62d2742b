"""Finds images that are equal or similar: equal bytes, or thumbnails of 9 × 8 pixels that agree.

Source: dHash (Krawetz, 2013): 64 bits, each of which says whether a pixel of the thumbnail is darker than its right
neighbour. It survives scaling and re-encoding, and finds candidates quickly. *Difference*: the thumbnails of candidates
must also correlate, because scans of handwriting, which are mostly blank, share their hash with unrelated ones.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8, UInt64
from torch import Tensor
from torch.nn.functional import interpolate

THUMBNAIL = (8, 9)
"""Rows and columns."""

MAX_DISTANCE = 3
"""Largest number of bits in which the hashes of near duplicates differ."""

MIN_CORRELATION = 0.995
"""Smallest correlation between the thumbnails of near duplicates."""

_MARGIN = 2  # in grey levels; a smaller difference of two pixels is noise
_MIN_BITS, _MAX_BITS = 8, 56  # outside there is too little texture to tell images apart
# Four bands of 16 bits: hashes that differ in three bits agree in one band. Large buckets are searched only this far.
_BANDS, _REACH = 4, 32
_PART_PAIRS = 65_536


def thumbnail(pixels: UInt8[Tensor, "3 H W"]) -> UInt8[np.ndarray, "8 9"]:
    """Shrink an image to 8 rows of 9 grey pixels."""
    small = interpolate(pixels.unsqueeze(0), size=THUMBNAIL, mode="bilinear", antialias=True)[0]
    return small.float().mean(dim=0).round().byte().numpy()


def dhash(thumbnails: UInt8[np.ndarray, "n 8 9"]) -> UInt64[np.ndarray, " n"]:
    """Return the 64 bits of each thumbnail."""
    levels = thumbnails.astype(np.int16)
    bits = levels[:, :, 1:] - levels[:, :, :-1] > _MARGIN
    return np.packbits(bits.reshape(len(bits), 64), axis=1).view(np.uint64).reshape(-1)


def equal_pairs(digests: np.ndarray) -> np.ndarray:
    """Pair each position whose digest (`S16` [n]) occurred before with the first occurrence: int64 [pairs, 2]."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    is_repeat = ordered[1:] == ordered[:-1]
    repeats = np.flatnonzero(is_repeat) + 1
    firsts = np.flatnonzero(np.append(True, ~is_repeat))
    first = firsts[np.searchsorted(firsts, repeats) - 1]
    pairs = np.stack([order[first], order[repeats]], axis=1)
    return pairs[np.argsort(pairs[:, 1])]


def shared_pairs(reference: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Pair the first position in `reference` and the position in `digests` of equal digests: int64 [pairs, 2]."""
    unique, firsts = np.unique(reference, return_index=True)
    if not len(unique):
        return np.empty((0, 2), dtype=np.int64)
    nearest = np.minimum(np.searchsorted(unique, digests), len(unique) - 1)
    shared = np.flatnonzero(unique[nearest] == digests)
    return np.stack([firsts[nearest[shared]], shared], axis=1)


def near_pairs(
    hashes: UInt64[np.ndarray, " n"], thumbnails: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Find pairs of positions whose thumbnails agree within `MAX_DISTANCE` and `MIN_CORRELATION`.

    Args:
        hashes: `dhash` of the thumbnails.
        thumbnails: Returns the thumbnails at some positions; called for candidates only.

    Yields:
        Int64 [pairs, 2], a part of the pairs at a time, since there may be many more pairs than images. Each occurs
        once, with the smaller position first. In a bucket of more than 32 hashes that share a band, each is compared
        only with the next 32.
    """
    bits = np.bitwise_count(hashes)
    textured = np.flatnonzero((bits >= _MIN_BITS) & (bits <= _MAX_BITS)).astype(np.int32)
    hashes = hashes[textured]
    ranks: list[np.ndarray] = []
    for band in range(_BANDS):
        keys = _band(hashes, band)
        order = np.lexsort((hashes, keys)).astype(np.int32)
        keys, ordered = keys[order], hashes[order]
        for step in range(1, min(_REACH, len(order) - 1) + 1):
            near = np.bitwise_count(ordered[:-step] ^ ordered[step:]) <= MAX_DISTANCE
            candidates = np.flatnonzero(near & (keys[:-step] == keys[step:]))
            for start in range(0, len(candidates), _PART_PAIRS):
                at = candidates[start : start + _PART_PAIRS]
                first, second = _fresh(order[at], order[at + step], hashes, ranks)
                pairs = np.sort(np.stack([textured[first], textured[second]], axis=1).astype(np.int64), axis=1)
                agree = _correlation(thumbnails(pairs[:, 0]), thumbnails(pairs[:, 1])) >= MIN_CORRELATION
                yield pairs[agree]
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order), dtype=np.int32)
        ranks.append(rank)


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return (hashes >> np.uint64(16 * band)).astype(np.uint16)


def _fresh(
    first: np.ndarray, second: np.ndarray, hashes: np.ndarray, ranks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the pairs that an earlier band has compared; `ranks` are the positions of the hashes in each of those."""
    is_fresh = np.ones(len(first), dtype=bool)
    for band, rank in enumerate(ranks):
        shared = _band(hashes[first], band) == _band(hashes[second], band)
        is_fresh &= ~(shared & (np.abs(rank[first] - rank[second]) <= _REACH))
    return first[is_fresh], second[is_fresh]


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), 72).astype(np.float64) for x in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
