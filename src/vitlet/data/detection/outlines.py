"""Outlines to masks and back, by COCO's own rules of which pixels a polygon covers (extra `detection`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitlet.errors import UsageError

try:
    from faster_coco_eval import mask as _coco
except ImportError:  # pragma: no cover - every development environment has it
    _coco = None


def require_coco() -> Any:
    """The mask functions of faster-coco-eval.

    Raises:
        UsageError: where it is not installed.
    """
    if _coco is None:
        raise UsageError(
            "masks and scores of detection need the package faster-coco-eval", fix="pip install 'vitlet[detection]'"
        )
    return _coco


def to_mask(outline: Any, *, height: int, width: int) -> np.ndarray:
    """Uint8 [H, W], 1 inside: of polygons, or of run lengths, plain or compressed."""
    coco = require_coco()
    return coco.decode(to_runs(outline, height=height, width=width))


def to_runs(outline: Any, *, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of polygons or of plain run lengths."""
    coco = require_coco()
    if isinstance(outline, list):
        return coco.merge(coco.frPyObjects(outline, height, width))
    if isinstance(outline["counts"], list):
        return coco.frPyObjects(outline, height, width)
    return outline


def from_masks(masks: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Compressed run lengths (as text, fit for JSON) of uint8 masks [H, W]."""
    coco = require_coco()
    found = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    return [{"size": [int(s) for s in runs["size"]], "counts": _text(runs["counts"])} for runs in found]


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
