"""Raw pixel files: NumPy's `.npy` of uint8, height × width × 3, as `vitlet pack --raw` writes it.

Reading costs no decode, at ten times the size of a JPEG. No other arrays are supported; the header is matched and never
evaluated.
"""

import re
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(rb"\{'descr': '\|u1', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9}), 3\), \} *\n")


def to_npy(pixels: UInt8[Tensor, "3 H W"]) -> bytes:
    """Encode pixels as a file: a header of 128 bytes, then rows of pixels."""
    height, width = pixels.shape[1:]
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}".encode()
    header = header.ljust(128 - len(MAGIC) - 3) + b"\n"
    return MAGIC + len(header).to_bytes(2, "little") + header + pixels.permute(1, 2, 0).contiguous().numpy().tobytes()


def npy_shape(content: bytes) -> tuple[int, int, int] | None:
    """Return (height, width, offset of the first pixel), or None for a header that `to_npy` does not write."""
    offset = 10 + int.from_bytes(content[8:10], "little")
    found = _HEADER.fullmatch(content[10:offset]) if content.startswith(MAGIC) else None
    return (int(found[1]), int(found[2]), offset) if found else None


def from_npy(content: bytes, *, shape: tuple[int, int, int]) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels in channels-last memory; `shape` comes from `npy_shape` and must match the length.

    They are those in `content`, not a copy, and must not be written to.
    """
    height, width, offset = shape
    array: Any = np.frombuffer(content, dtype=np.uint8, offset=offset).reshape(height, width, 3)
    return torch.from_dlpack(array).permute(2, 0, 1)  # `from_numpy` would warn that the memory is read-only
