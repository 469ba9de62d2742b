"""Samples and their batches: an image is decoded and augmented by a key that depends only on (seed, epoch, position),
and samples are stacked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vitlet.augmentation import View
from vitlet.data.bad_image import BadImage
from vitlet.data.decode import decode
from vitlet.data.detection.following import Objects
from vitlet.data.index import Index
from vitlet.data.stores import AT_ONCE
from vitlet.data.views import apply_view
from vitlet.host import ranks_here
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.rng import derive

SUBSTITUTES = 8
_DECODED_CACHE_BYTES = 512 * 2**20
"""Of one host. Its ranks and their workers share it, because each keeps the images that it decoded itself."""

Item = tuple[int, int]
"""(epoch, position): all that a sample depends on besides the seed."""


class Samples(Dataset):
    """Decodes and augments one image on request."""

    def __init__(
        self,
        index: Index,
        ids: np.ndarray,
        *,
        views: Sequence[View],
        seed: int,
        workers: int = 0,
        objects: Objects | None = None,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        """Set up the samples.

        Args:
            index: The images.
            ids: Rows of the index that may be used; their order defines the positions.
            views: Augmentations, each applied once to every image.
            seed: Seed of all random draws.
            workers: Number of loader processes.
            objects: Annotations; each sample then has the objects that are visible in its first view.
            normalisation: The normalisation that follows.
        """
        self.index, self.ids, self.views, self.seed, self.objects = index, ids, tuple(views), seed, objects
        self.normalisation = normalisation
        self.reading = torch.full((max(1, workers),), -1).share_memory_()
        """Which position each worker is at; it outlives them."""
        self.begun = torch.zeros(max(1, workers), dtype=torch.int64).share_memory_()
        """How many images each worker has begun: one whose number stands still hangs."""
        self._decoded: dict[int, Tensor] = {}
        self._room = _DECODED_CACHE_BYTES // (ranks_here() * max(1, workers))
        self._fetched: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, items: list[Item]) -> list[dict[str, Any]]:
        """Several samples; from an object store their files are fetched together, as many as it reads at once."""
        samples: list[dict[str, Any]] = []
        for start in range(0, len(items), AT_ONCE):  # a whole batch of files would fill the memory and take minutes
            some = items[start : start + AT_ONCE]
            self._fetched = self.index.read_ahead([int(self.ids[position]) for _, position in some])
            samples += [self[item] for item in some]
        return samples

    def __getitem__(self, item: Item) -> dict[str, Any]:
        epoch, position = item
        worker = get_worker_info()
        place = worker.id if worker else 0
        self.reading[place] = position
        self.begun[place] += 1
        image, chosen, replaced = self._image(epoch, position)
        if image is None:
            return {"lost": replaced}
        keys = [derive(self.seed, "view", epoch, position, v) for v in range(len(self.views))]
        row = int(self.ids[chosen])  # a substitute has its own label, not that of the image that it replaces
        label, shape = int(self.index.labels[row]), (image.shape[1], image.shape[2])
        sample = {"label": label, "position": position, "replaced": replaced, "shape": shape}
        if self.objects is not None:
            pixels, targets = self.objects.look(
                image, row, view=self.views[0], key=keys[0], normalisation=self.normalisation
            )
            return sample | {"views": (pixels,), "targets": targets}
        views = (
            apply_view(image, view, key=key, normalisation=self.normalisation)
            for view, key in zip(self.views, keys, strict=True)
        )
        return sample | {"views": tuple(views)}

    def _image(self, epoch: int, position: int) -> tuple[Tensor | None, int, tuple[int, str] | None]:
        """Return an image, its position and, if it replaces an image that cannot be read, (position, reason) of that.

        Substitutes are deterministic. The image is None if no substitute can be read either.
        """
        reason: tuple[int, str] | None = None
        for attempt in range(1 + SUBSTITUTES):
            chosen = position if attempt == 0 else derive(self.seed, "substitute", epoch, position, attempt) % len(self)
            try:
                return self._decode(chosen), chosen, reason
            except BadImage as error:
                reason = reason or (position, str(error))
        return None, position, reason

    def _decode(self, position: int) -> Tensor:
        # Images of small sets are kept after decoding as far as there is room: at 32 pixels decoding takes as long as
        # the training step.
        if position in self._decoded:
            return self._decoded[position]
        row = int(self.ids[position])
        content = self._fetched.pop(row, None)
        image = decode(self.index.read(row) if content is None else content, path=self.index.path(row))
        if self.objects is not None:
            self.objects.require(row, image, path=self.index.path(row))
        if image.nbytes * len(self) <= _DECODED_CACHE_BYTES and image.nbytes <= self._room:
            self._decoded[position] = image
            self._room -= image.nbytes
        return image


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples to the columns of a `Batch`, without slots.

    If an image and its substitutes are lost, its sample is returned instead, since an exception in a worker would reach
    the parent as a page of text.
    """
    for row in rows:
        if "lost" in row:
            return row
    return {
        "views": tuple(_stack(view) for view in zip(*(row["views"] for row in rows), strict=True)),
        "labels": torch.tensor([row["label"] for row in rows]),
        "positions": torch.tensor([row["position"] for row in rows]),
        "replaced": tuple(row["replaced"] for row in rows if row["replaced"]),
        "targets": tuple(row["targets"] for row in rows if "targets" in row),
        "shapes": tuple(row["shape"] for row in rows),
    }


def _stack(views: Sequence[Tensor]) -> Tensor:
    """Stack to B × 3 × H × W in the channels-last memory of decoded images, which is five times as fast."""
    return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)
