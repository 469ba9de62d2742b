"""Transforms boxes and masks together with their image.

The geometry comes from `views.look`, drawn from its key, and is applied by torchvision's v2 kernels on tv_tensors;
torchvision's own random transforms would use the global generator.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as v2

from vitlet.augmentation import View
from vitlet.data.bad_image import BadImage
from vitlet.data.batch import Targets
from vitlet.data.detection.annotations import Annotations
from vitlet.data.detection.outlines import to_mask
from vitlet.data.views import Placement, look
from vitlet.normalisation import IMAGENET, Normalisation

_SMALLEST_PIXELS = 1.0


@dataclass(frozen=True)
class Objects:
    """Annotations that a loader returns along with the images of an index."""

    annotations: Annotations
    masks: bool
    """Whether masks are learned; otherwise boxes alone."""

    def require(self, row: int, image: UInt8[Tensor, "3 H W"], *, path: str) -> None:
        """Check that an image has the size stated in its annotations.

        Raises:
            BadImage: if the sizes differ.
        """
        shape = self.annotations.shape(row)
        if tuple(image.shape[1:]) != shape:
            here, there = ("{1}×{0}".format(*sides) for sides in (image.shape[1:], shape))
            raise BadImage(path, f"it has {here} pixels, its annotations were made on {there}")

    def look(
        self, image: UInt8[Tensor, "3 H W"], row: int, *, view: View, key: int, normalisation: Normalisation = IMAGENET
    ) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """See `look_with_objects`."""
        return look_with_objects(
            image, self.annotations, row, view=view, masks=self.masks, key=key, normalisation=normalisation
        )


def look_with_objects(
    image: UInt8[Tensor, "3 H W"],
    annotations: Annotations,
    row: int,
    *,
    view: View,
    masks: bool,
    key: int,
    normalisation: Normalisation = IMAGENET,
) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
    """Apply a view to an image and its objects.

    Left out are crowds, objects of which less than a pixel is visible, and, if masks are learned, objects without an
    outline. A box cut by the view becomes that of the visible part of the mask, if there is one.

    Args:
        image: Image `row` of the index, decoded.
        annotations: Annotations of the same index.
        row: Row of the image in the index.
        view: A view with the crop `LargeScaleJitter` or `Fit`.
        masks: Whether masks are learned.
        key: See `views.apply_view`.
        normalisation: See `views.apply_view`.
    """
    pixels, placement, is_flipped = look(image, view, key=key, normalisation=normalisation)
    assert placement is not None, "objects follow LargeScaleJitter and Fit only"
    height, width = image.shape[1:]
    rows = annotations.objects(row, crowds=False)
    corners = torch.from_numpy(np.array(annotations.columns["boxes"][rows], dtype=np.float32).reshape(-1, 4))
    corners[:, 2:] += corners[:, :2]
    boxes = _boxes(corners, height=height, width=width)
    whole = _move(v2.clamp_bounding_boxes(boxes), placement, is_flipped)
    clipped = v2.clamp_bounding_boxes(whole)
    sides = clipped[:, 2:] - clipped[:, :2]
    is_visible = (sides >= _SMALLEST_PIXELS).all(dim=1)
    labels = torch.from_numpy(np.array(annotations.columns["categories"][rows], dtype=np.int64))
    if not masks:
        return pixels, Targets(clipped[is_visible].as_subclass(Tensor), labels[is_visible], None)
    outlines = [annotations.outline(r) for r in rows]
    chosen = [i for i in range(len(rows)) if is_visible[i] and outlines[i] is not None]
    shapes = [torch.from_numpy(to_mask(outlines[i], height=height, width=width)) for i in chosen]
    stack = torch.stack(shapes) if shapes else torch.zeros(0, height, width, dtype=torch.uint8)
    moved = _move(tv_tensors.Mask(stack), placement, is_flipped).as_subclass(Tensor)
    is_there = (moved > 0).flatten(1).any(dim=1)
    kept = torch.tensor(chosen, dtype=torch.int64)[is_there]
    moved = moved[is_there]
    is_cut = (whole[kept] != clipped[kept]).any(dim=1)
    tight = masks_to_boxes(moved) + torch.tensor([0, 0, 1, 1]) if len(kept) else torch.zeros(0, 4)
    final = torch.where(is_cut[:, None], tight, clipped[kept].as_subclass(Tensor))
    return pixels, Targets(final.float(), labels[kept], moved)


def _move(content: Tensor, at: Placement, is_flipped: bool) -> Tensor:
    content = v2.horizontal_flip(content) if is_flipped else content
    content = v2.resize(content, [at.height, at.width])
    if isinstance(content, tv_tensors.BoundingBoxes):
        # Crop manually: coordinates outside the window show which boxes were cut.
        corners = content - torch.tensor([at.left, at.top, at.left, at.top])
        return _boxes(corners.as_subclass(Tensor), height=at.size, width=at.size)
    return v2.crop(content, at.top, at.left, at.size, at.size)


def _boxes(corners: Tensor, *, height: int, width: int) -> tv_tensors.BoundingBoxes:
    form = tv_tensors.BoundingBoxFormat.XYXY
    return tv_tensors.BoundingBoxes(corners, format=form, canvas_size=(height, width))  # pyright: ignore[reportCallIssue]
