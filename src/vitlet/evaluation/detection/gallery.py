"""Pictures of detections next to the ground truth, and a score for a single image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import box_iou

from vitlet.data.detection.outlines import require_coco
from vitlet.evaluation.detection.find import Found
from vitlet.text import printable

# Okabe and Ito 2008, without black: eight people in a hundred cannot distinguish red from green.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_OPACITY = 0.45
_SURE = 0.5
_OVERLAP = 0.5


@dataclass(frozen=True)
class Drawn:
    """Objects to draw on one image, in its pixels."""

    boxes: np.ndarray
    """Float [M, 4]: left, top, right, bottom."""
    names: Sequence[str]
    masks: Sequence[UInt8[np.ndarray, "H W"]] = ()
    """Empty, or one per object."""
    certainties: Sequence[float] = ()
    """Empty, or one per object, shown after its name in per cent."""


def drawable(found: Found, classes: Sequence[str]) -> Drawn:
    """Select the detections with a score of at least ½."""
    sure = [k for k in range(len(found.scores)) if found.scores[k] >= _SURE]
    names = [printable(classes[int(found.labels[k])]) for k in sure]
    masks = [] if found.runs is None else [require_coco().decode(found.runs[k]) for k in sure]
    return Drawn(found.boxes[sure], names, masks, [float(found.scores[k]) for k in sure])


def draw(image: UInt8[Tensor, "3 H W"], objects: Drawn, *, side: int | None = None) -> Image.Image:
    """Draw coloured masks, boxes and names; resize the longer side to `side` pixels, if given.

    Objects of one class share a colour within a picture.
    """
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
    order = sorted(set(objects.names))
    colours = [_COLOURS[order.index(name) % len(_COLOURS)] for name in objects.names]
    for mask, colour in zip(objects.masks, colours, strict=False):
        inside = mask.astype(bool)
        pixels[inside] = (1 - _OPACITY) * pixels[inside] + _OPACITY * np.array(colour, dtype=np.float32)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    scale = 1.0 if side is None else side / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, min(picture.size) // 28))
    stroke = max(1, min(picture.size) // 160)
    for k, (box, colour) in enumerate(zip(objects.boxes * scale, colours, strict=True)):
        left, top, right, bottom = (float(v) for v in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=stroke)
        words = objects.names[k] + (f" {100 * objects.certainties[k]:.0f}" if objects.certainties else "")
        pen.rectangle(pen.textbbox((left + stroke, top), words, font=font), fill=colour)
        pen.text((left + stroke, top), words, fill=(0, 0, 0), font=font)
    return picture


def quality(found: Found, boxes: np.ndarray, labels: np.ndarray) -> float | None:
    """F1 of one image: detections with a score of ½ or more against `boxes` (M 4) of `labels` (M).

    Detections are matched in descending order of score; a match needs the right class and an overlap of ½. None if
    there are neither objects nor detections.
    """
    sure = np.flatnonzero(found.scores >= _SURE)
    if not len(sure) and not len(boxes):
        return None
    overlap = box_iou(torch.from_numpy(found.boxes[sure]), torch.from_numpy(boxes.astype(np.float32))).numpy()
    overlap[found.labels[sure][:, None] != labels[None, :]] = 0
    right = 0
    for row in overlap:
        if row.size and row.max() >= _OVERLAP:
            right += 1
            overlap[:, row.argmax()] = 0
    return 2 * right / (len(sure) + len(boxes))


def squares(pictures: Sequence[Image.Image], *, side: int) -> UInt8[np.ndarray, "n S S 3"]:
    """Centre pictures of any shape, none longer than `side`, in grey squares."""
    canvas = np.full((len(pictures), side, side, 3), 128, dtype=np.uint8)
    for square, picture in zip(canvas, pictures, strict=True):
        pixels = np.asarray(picture)
        top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
        square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
