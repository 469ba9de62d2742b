"""Validates values of annotation files: JSON has no schema, and tools write text, nulls and NaN for numbers.

Each function accepts anything that `json.loads` returns and never raises.

Format: https://cocodataset.org/#format-data; compressed run lengths are those of COCO's `maskApi.c`.
"""

import os
import reprlib
from typing import Any

_MOST = 3.0e38
"""Largest value accepted; networks compute in single precision, where larger ones overflow."""
_FAR = 10
# Rasterising a polygon takes memory for every pixel of its border, inside the image or not.
_LONGEST_SHIFT = 60


def whole(value: Any) -> int | None:
    """Return a 63-bit integer such as an id, also from 3.0 (as pandas writes it); None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def finite(value: Any) -> float | None:
    """Return a number that is finite in single precision; None for anything else."""
    return float(value) if type(value) in (int, float) and -_MOST <= value <= _MOST else None


def file_name(value: Any) -> str | None:
    """Return a valid file name; None for anything else."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return None
    return value


def shown(value: Any) -> str:
    """Format a value for a message, shortened if it is long or deeply nested."""
    return (str(value) if type(value) in (int, str) else reprlib.repr(value))[:80]


def is_outline(outline: Any, *, height: int, width: int) -> bool:
    """Whether `outline` is polygons of at least three points not far from the image, or run lengths that fill it."""
    if isinstance(outline, dict):
        size = outline.get("size")
        is_size = isinstance(size, list) and size == [height, width] and all(type(side) is int for side in size)
        return is_size and _fills(outline.get("counts"), height * width)
    if not isinstance(outline, list) or not outline:
        return False
    limit = _FAR * max(height, width)
    return all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(type(v) in (int, float) and -limit <= v <= limit for v in polygon)
        for polygon in outline
    )


def _fills(counts: Any, pixels: int) -> bool:
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    return isinstance(counts, list) and all(type(v) is int and v >= 0 for v in counts) and sum(counts) == pixels


def _run_lengths(text: str) -> list[int] | None:
    """Decode compressed run lengths; None for invalid text.

    A character holds five bits, lowest first, and a continuation flag; the highest bit of the last one is the sign.
    From the fourth on, numbers are differences from the one two places before.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_SHIFT:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return None if shift else numbers
