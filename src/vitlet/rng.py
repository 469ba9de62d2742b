"""Randomness as a pure function of where it is used; nothing in vitlet reads a global generator.

`derive(seed, epoch, index, …)` names a stream; `uniform` draws a table of numbers whose row `r` depends only on the key
and `rows[r]`, so that a batch may be split over ranks and accumulation steps without changing a draw.

Source: splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), used as a counter-based hash.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive(*key: int | str) -> int:
    """Derive a 63-bit seed from a tuple of integers and words; unequal tuples give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(key: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Float32 numbers in [0, 1), shape `len(rows)` × `columns`; element (r, c) depends only on key, rows[r] and c."""
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(key) + _GOLDEN * (np.asarray(rows).astype(np.uint64) + np.uint64(1)))
        counter = _GOLDEN * np.arange(1, columns + 1, dtype=np.uint64)
        bits = _mix(start[:, None] + counter[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def permutation(key: int, length: int) -> np.ndarray:
    """A permutation of 0 … length-1 (int64) that depends only on the key, on every machine and rank."""
    return np.random.Generator(np.random.Philox(key=key)).permutation(length)


@contextmanager
def fenced(key: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators inside the block and restore their state afterwards.

    For library code that cannot use another generator (timm's RandAugment): its draws become a function of the key, and
    the rest of the process is not affected.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(key % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
