"""Conversion between outlines and masks by COCO's own rasterisation rules (extra `detection`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitlet.errors import UsageError

try:
    from faster_coco_eval import mask as _coco
except ImportError:  # pragma: no cover - every development environment has it
    _coco = None


def require_coco() -> Any:
    """Return the mask functions of faster-coco-eval.

    Raises:
        UsageError: if it is not installed.
    """
    if _coco is None:
        raise UsageError(
            "masks and scores of detection need the package faster-coco-eval", fix="pip install 'vitlet[detection]'"
        )
    return _coco


def to_mask(outline: Any, *, height: int, width: int) -> np.ndarray:
    """Rasterise polygons or (plain or compressed) run lengths to uint8 [H, W], 1 inside."""
    coco = require_coco()
    return coco.decode(to_runs(outline, height=height, width=width))


def to_runs(outline: Any, *, height: int, width: int) -> dict[str, Any]:
    """Convert polygons or plain run lengths to compressed run lengths."""
    coco = require_coco()
    if isinstance(outline, list):
        return coco.merge(coco.frPyObjects(outline, height, width))
    if isinstance(outline["counts"], list):
        return coco.frPyObjects(outline, height, width)
    return outline


def from_masks(masks: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Convert uint8 masks [H, W] to compressed run lengths, as text for JSON."""
    coco = require_coco()
    encoded = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    return [{"size": [int(s) for s in runs["size"]], "counts": _text(runs["counts"])} for runs in encoded]


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
