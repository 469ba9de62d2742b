"""Batches: the loader's output and an objective's input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Objects in one image, in the coordinates of its first view."""

    boxes: Float[Tensor, "M 4"]
    """Left, top, right, bottom in pixels."""
    labels: Int[Tensor, "M"]
    """Class numbers from 0."""
    masks: UInt8[Tensor, "M H W"] | None
    """1 inside the object; None if only boxes are learned."""

    def to(self, device: torch.device) -> "Targets":
        """Move the targets to `device`."""
        boxes, labels = self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        return Targets(boxes, labels, None if self.masks is None else self.masks.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """A rank's share of one global batch."""

    views: tuple[UInt8[Tensor, "B 3 _ _"], ...]
    labels: Int[Tensor, "B"]
    """Class numbers of the images; −1 without a label."""
    positions: Int[Tensor, "B"]
    """Positions of the images, or of those that they replace, among the usable images."""
    slots: Int[Tensor, "B"]
    """Slots in the global batch; they key every per-sample random draw of a step."""
    replaced: tuple[tuple[int, str], ...] = ()
    """(position, reason) of unreadable images that were replaced."""
    targets: tuple[Targets, ...] = ()
    """One per image for detection, otherwise empty."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Height and width of each image before augmentation, in pixels."""

    @property
    def images(self) -> UInt8[Tensor, "B 3 H W"]:
        """The first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Move images, labels and targets to `device`; slots and positions stay on the CPU."""
        views = tuple(v.to(device, non_blocking=True) for v in self.views)
        targets = tuple(t.to(device) for t in self.targets)
        return Batch(views, self.labels.to(device), self.positions, self.slots, self.replaced, targets, self.shapes)

    def parts(self, size: int) -> list["Batch"]:
        """Split into parts of at most `size` images, for gradient accumulation."""
        cut = range(0, len(self), size)
        return [
            Batch(
                tuple(v[i : i + size] for v in self.views),
                self.labels[i : i + size],
                self.positions[i : i + size],
                self.slots[i : i + size],
                targets=self.targets[i : i + size],
                shapes=self.shapes[i : i + size],
            )
            for i in cut
        ]
