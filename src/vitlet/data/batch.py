"""What the loader hands to an objective."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What is on one image, as its first view shows it."""

    boxes: Float[Tensor, "M 4"]
    """Left, top, right, bottom in pixels."""
    labels: Int[Tensor, "M"]
    """Class numbers from 0."""
    masks: UInt8[Tensor, "M H W"] | None
    """1 where the object is; None where only boxes are learned."""

    def to(self, device: torch.device) -> "Targets":
        """The same on `device`."""
        boxes, labels = self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        return Targets(boxes, labels, None if self.masks is None else self.masks.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """A rank's share of one global batch."""

    views: tuple[UInt8[Tensor, "B 3 _ _"], ...]
    labels: Int[Tensor, "B"]
    """Class numbers of the images that are seen; −1 without a label."""
    positions: Int[Tensor, "B"]
    """Which of the usable images these are, or stand in for."""
    slots: Int[Tensor, "B"]
    """Places in the global batch; whatever is drawn per sample in a step is keyed by them."""
    replaced: tuple[tuple[int, str], ...] = ()
    """(position, reason) of images that had become unreadable and were substituted."""
    targets: tuple[Targets, ...] = ()
    """One an image, where objects are learned; else none."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Height and width of each image before it was looked at, in pixels."""

    @property
    def images(self) -> UInt8[Tensor, "B 3 H W"]:
        """The first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its images, labels and targets on `device`; slots and positions stay on the CPU."""
        views = tuple(v.to(device, non_blocking=True) for v in self.views)
        targets = tuple(t.to(device) for t in self.targets)
        return Batch(views, self.labels.to(device), self.positions, self.slots, self.replaced, targets, self.shapes)

    def parts(self, size: int) -> list["Batch"]:
        """Cut for gradient accumulation, at most `size` images each."""
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
