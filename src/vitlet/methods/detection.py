"""Detection and instance segmentation: Faster or Mask R-CNN on the encoder, trained on boxes and outlines.

Papers: Li et al. 2022 (ViTDet), as Wang et al. 2023 (section A.5) fine-tune with it; Ren et al. 2015; He et al. 2017.

Differences: see `nn/detection`. The class token is not used and stays unchanged.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.methods.objective import Losses, Objective, Step, untraced
from vitlet.nn.detection.detector import Detector, DetectorShape
from vitlet.nn.encoder import Encoder


class Detection(Objective):
    """The unweighted sum of the losses of proposals, classes, boxes and masks."""

    def __init__(self, encoder: Encoder, shape: DetectorShape, *, seed: int = 0) -> None:
        """Build a new detector on `encoder`.

        Args:
            encoder: A plain ViT for images of the training size, with or without final norm.
            shape: Sizes of everything above the encoder.
            seed: Seed of the detector's initial weights.
        """
        super().__init__()
        self.encoder = encoder
        self.detector = Detector(encoder, shape, seed=seed)
        class_token = encoder.vit.cls_token
        assert class_token is not None
        class_token.requires_grad_(False)

    @untraced
    def forward(self, batch: Batch, step: Step) -> Losses:
        """Losses of the images and their `targets`."""
        assert len(batch.targets) == len(batch), "a batch without targets"
        slots = batch.slots
        survival = self.encoder.survival(key=step.key("drop path"), slots=slots)
        targets = [{"boxes": t.boxes, "labels": t.labels + 1} for t in batch.targets]
        for target, seen in zip(targets, batch.targets, strict=True):
            if seen.masks is not None:
                target["masks"] = seen.masks
        terms = self.detector.losses(
            self.encoder, batch.images, targets, key=step.key("samples"), slots=slots, survival=survival
        )
        return Losses(total=torch.stack(list(terms.values())).sum(), terms=terms)

    def detect(self, images: UInt8[Tensor, "B 3 H W"]) -> list[dict[str, Tensor]]:
        """See `Detector.detect`."""
        return self.detector.detect(self.encoder, images)
