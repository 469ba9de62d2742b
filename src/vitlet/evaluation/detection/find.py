"""Detections of a model on images, in pixels of the files."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from vitlet.augmentation import View
from vitlet.data.batch import Batch
from vitlet.data.detection.outlines import from_masks
from vitlet.data.views import place
from vitlet.evaluation.images import each_once

_INSIDE = 0.5


@dataclass(frozen=True)
class Found:
    """Detections on one image, in descending order of score."""

    position: int
    """Position of the image, as in `Batch.positions`."""
    height: int
    width: int
    boxes: np.ndarray
    """Float32 [M, 4]: left, top, right, bottom in pixels of the file."""
    labels: np.ndarray
    """Int64 [M], class numbers from 0."""
    scores: np.ndarray
    """Float32 [M]."""
    runs: list[dict[str, Any]] | None
    """Masks as compressed run-length encodings; None from a detector without masks."""

    def to_coco(self, *, image_id: int, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
        """Convert to entries of a COCO results file."""
        entries = []
        for k, (left, top, right, bottom) in enumerate(self.boxes.tolist()):
            entry = {
                "image_id": image_id,
                "category_id": category_ids[int(self.labels[k])],
                "bbox": [round(v, 3) for v in (left, top, right - left, bottom - top)],
                "score": round(float(self.scores[k]), 6),
            }
            entries.append(entry | ({} if self.runs is None else {"segmentation": self.runs[k]}))
        return entries


def find_objects(
    detect: Callable[[Tensor], list[dict[str, Tensor]]],
    batches: Iterable[Batch],
    *,
    view: View,
    device: torch.device | str = "cpu",
) -> Iterator[Found]:
    """Run a detector over every image once.

    Args:
        detect: Maps images as seen through `view` to detections, as `Detector.detect` does.
        batches: Each image once, seen through `view`.
        view: View with the crop `Fit`.
        device: Device on which `detect` expects its images.

    Raises:
        DataError: as `each_once`.
    """
    with torch.inference_mode():
        for batch in each_once(batches):
            for k, found in enumerate(detect(batch.images.to(device))):
                yield _in_file({name: value.float().cpu() for name, value in found.items()}, batch, k, view)


def _in_file(found: dict[str, Tensor], batch: Batch, k: int, view: View) -> Found:
    height, width = batch.shapes[k]
    at = place(height, width, view, random.Random(0))  # `Fit` draws nothing
    scale = torch.tensor([width / at.width, height / at.height] * 2)
    boxes = (found["boxes"] * scale).clamp(min=torch.zeros(4), max=torch.tensor([width, height] * 2))
    # Boxes in the padding of the square lie outside the image.
    keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    boxes = boxes[keep]
    runs = None
    if "masks" in found:
        masks = paste_masks_in_image(found["masks"][keep][:, None], boxes, (height, width))[:, 0] >= _INSIDE
        runs = from_masks(list(masks.to(torch.uint8).numpy()))
    labels = found["labels"][keep].to(torch.int64).numpy()
    return Found(int(batch.positions[k]), height, width, boxes.numpy(), labels, found["scores"][keep].numpy(), runs)
