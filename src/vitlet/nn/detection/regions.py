"""torchvision's proposal network and region heads, with losses that do not depend on how a batch is split.

Papers: Ren et al. 2015 (Faster R-CNN), He et al. 2017 (Mask R-CNN).

Differences from torchvision's own losses:
  * Anchors and regions are sampled by a hash of (step, slot of the image) instead of the global generator.
  * Every loss is a mean of per-image losses, so that ranks and accumulation change nothing: proposals divide by the
    fixed number of samples per image (as detectron2 does), regions by the image's own count. In torchvision an image
    with many regions weighs more than one with few.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from vitlet.rng import derive, uniform

Targets = list[dict[str, Tensor]]
"""Per image `boxes` (M 4, pixels), `labels` (M, from 1; 0 is background) and `masks` (M H W)."""


class KeyedSampler(BalancedPositiveNegativeSampler):
    """Samples the anchors or regions of an image to learn from, with the interface torchvision's heads call."""

    def __init__(self, count: int, *, positive_share: float, purpose: str) -> None:
        """Sample at most `count` per image, at most `positive_share` of them positive."""
        super().__init__(count, positive_share)
        self.count, self.most_positive, self.purpose = count, int(count * positive_share), purpose
        self._key, self._slots = 0, np.zeros(0, dtype=np.int64)

    def begin(self, key: int, slots: Int[Tensor, "B"]) -> None:
        """Set the key and slots that determine the draws of the next call."""
        self._key, self._slots = derive(key, self.purpose), slots.numpy()

    def __call__(self, matched_idxs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the sampled positives (label ≥ 1) and negatives (label 0) of each image."""
        assert len(matched_idxs) == len(self._slots), "`begin` was not called for this batch"
        chosen = [self._choose(values, self._slots[i : i + 1]) for i, values in enumerate(matched_idxs)]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _choose(self, labels: Tensor, slot: np.ndarray) -> tuple[Tensor, Tensor]:
        draws = torch.from_numpy(uniform(self._key, slot, len(labels))[0]).to(labels.device)
        positive = _first(torch.where(labels >= 1)[0], draws, self.most_positive)
        negative = _first(torch.where(labels == 0)[0], draws, self.count - len(positive))
        masks = torch.zeros(2, len(labels), dtype=torch.uint8, device=labels.device)
        masks[0, positive], masks[1, negative] = 1, 1
        return masks[0], masks[1]


def _first(places: Tensor, draws: Tensor, count: int) -> Tensor:
    return places[draws[places].argsort(stable=True)[:count]]


class Proposals(RegionProposalNetwork):
    """torchvision's network, with the loss of each image divided by a fixed number of anchors."""

    fg_bg_sampler: KeyedSampler

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: Sequence[Tensor],
        regression_targets: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness and of box offsets."""
        positives, negatives = self.fg_bg_sampler(labels)
        positive = torch.where(torch.cat(positives))[0]
        sampled = torch.cat([positive, torch.where(torch.cat(negatives))[0]])
        divisor = self.fg_bg_sampler.count * len(labels)
        box = F.smooth_l1_loss(
            pred_bbox_deltas[positive], torch.cat(list(regression_targets))[positive], beta=1 / 9, reduction="sum"
        )
        objectness = objectness.flatten()[sampled]
        known = torch.cat(list(labels))[sampled].to(objectness.dtype)
        return F.binary_cross_entropy_with_logits(objectness, known, reduction="sum") / divisor, box / divisor


class Regions(RoIHeads):
    """torchvision's box and mask heads, with losses averaged over images."""

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        images: ImageList,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Compute `class`, `box` and, with a mask head, `mask`; scalars."""
        proposals, matched, labels, offsets = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, images.image_sizes))
        counts = [len(values) for values in labels]
        logits, boxes = (x.split(counts) for x in self.box_predictor(pooled))
        pairs = [
            fastrcnn_loss(*image)
            for image in zip(logits, boxes, ([x] for x in labels), ([x] for x in offsets), strict=True)
        ]
        found = {"class": _mean([p[0] for p in pairs]), "box": _mean([p[1] for p in pairs])}
        if self.has_mask():
            positive = [torch.where(values > 0)[0] for values in labels]
            where = [boxes[chosen] for boxes, chosen in zip(proposals, positive, strict=True)]
            which = [m[chosen] for m, chosen in zip(matched, positive, strict=True)]
            found["mask"] = self._mask_loss(features, where, which, images, targets)
        return found

    def _mask_loss(
        self, features: dict[str, Tensor], where: list[Tensor], which: list[Tensor], images: ImageList, targets: Targets
    ) -> Tensor:
        assert self.mask_roi_pool is not None
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, where, images.image_sizes)))
        parts = logits.split([len(boxes) for boxes in where])
        return _mean(
            [
                maskrcnn_loss(part, [boxes], [target["masks"]], [target["labels"]], [matched])
                for part, boxes, target, matched in zip(parts, where, targets, which, strict=True)
            ]
        )


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
