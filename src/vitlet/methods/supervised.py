"""Supervised training and fine-tuning: a classifier on the encoder, with mixup, CutMix and label smoothing.

Paper: Touvron et al. 2021 (DeiT) and the recipes of Wang et al. 2023; Zhang et al. 2018 (mixup); Yun et al. 2019
(CutMix). With a `Tutor`, half of the loss comes from a second head that imitates a teacher.

Differences from timm's `Mixup`: an image is mixed with its neighbour in the global batch (slots 2i and 2i+1), not
with the reversed batch. The order of a batch is random, so the distribution is the same, and the result does not
depend on how the batch is split over ranks.
"""

import random
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlet.choices import Pool
from vitlet.data.batch import Batch
from vitlet.errors import DataError
from vitlet.methods.objective import Losses, Objective, Step, untraced
from vitlet.methods.tutor import Tutor
from vitlet.nn.convnet import AnyEncoder
from vitlet.nn.encoder import Encoded, Encoder
from vitlet.nn.heads import Classifier, head_input, new_classifier

_BEIT_HEAD_SCALE = 0.001


class Supervised(Objective):
    """Cross-entropy against the labels, hard or mixed."""

    def __init__(
        self,
        encoder: AnyEncoder,
        *,
        num_classes: int,
        pool: Pool = "mean",
        mixup: float = 0.0,
        cutmix: float = 0.0,
        smoothing: float = 0.0,
        tutor: Tutor | None = None,
        seed: int = 0,
    ) -> None:
        """Put a new classifier on `encoder`; with relative positions it starts a thousand times smaller, as in BEiT.

        Args:
            encoder: A ViT, with its final norm if `pool` is `class` and without it if `mean`; or a ConvNet.
            num_classes: C; at least two.
            pool: What a ViT's head reads.
            mixup: α of the Beta distribution; 0 is off.
            cutmix: α of the Beta distribution; 0 is off. With both, one of the two is chosen per step, evenly.
            smoothing: Label smoothing ε.
            tutor: A second head on a ViT with a teacher to imitate.
            seed: Seed of the head's initial weights.
        """
        super().__init__()
        if num_classes < 2:
            raise DataError(
                f"supervised training needs at least two classes, the data has {num_classes}",
                fix="give labelled data (class folders or a manifest with a label column)",
            )
        # Wider than in other methods: a classifier needs no patches.
        self.encoder: AnyEncoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        self.classifier = new_classifier(encoder, num_classes=num_classes, pool=pool, seed=seed)
        if isinstance(encoder, Encoder) and encoder.config.relative_position:
            for tensor in cast(Classifier, self.classifier).head.parameters():
                tensor.data.mul_(_BEIT_HEAD_SCALE)
        self.num_classes, self.mixup, self.cutmix, self.smoothing = num_classes, mixup, cutmix, smoothing
        self.tutor = tutor

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Cross-entropy with the (mixed, smoothed) labels."""
        images, targets, survival = self._prepare(batch, step)
        encoded = head_input(self.encoder, images, survival=survival)
        logits = self.classifier(encoded)
        loss = F.cross_entropy(logits.float(), targets)
        hits = (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
        statistics = {"train_top1": hits.detach()}
        if self.tutor is None:
            return Losses(total=loss, statistics=statistics)
        terms = {"labels": loss, "teacher": self.tutor.loss(cast(Encoded, encoded), images)}
        total = torch.lerp(terms["labels"], terms["teacher"], self.tutor.alpha)
        return Losses(total=total, terms=terms, statistics=statistics)

    def logits(self, images: Tensor) -> Float[Tensor, "B C"]:
        """Class scores for evaluation; with a tutor, the mean of both heads, as in the paper."""
        encoded = head_input(self.encoder, images)
        found = self.classifier(encoded)
        return found if self.tutor is None else (found + self.tutor(encoded)) / 2

    def first_head(self, images: Tensor) -> Float[Tensor, "B C"]:
        """Class scores of the first classifier alone, the only head an exported file can hold."""
        return self.classifier(head_input(self.encoder, images))

    def provenance(self) -> dict[str, Any]:
        """The teacher, if there was one."""
        return {} if self.tutor is None else {"teacher": self.tutor.facts, "heads": "the first of two"}

    @untraced
    def _prepare(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
        targets = smooth_one_hot(batch.labels, num_classes=self.num_classes, smoothing=self.smoothing)
        images: Tensor = batch.images
        if self.mixup or self.cutmix:
            images, targets = self._mix(images.float(), targets, step)
        survival = None
        if isinstance(self.encoder, Encoder):
            survival = self.encoder.survival(key=step.key("drop path"), slots=batch.slots)
        return images, targets, survival

    def _mix(self, images: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        assert len(images) % 2 == 0, f"{len(images)} images, of which one has no neighbour"
        draw = random.Random(step.key("mix"))
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or draw.random() < 0.5)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = draw.betavariate(alpha, alpha)
        partner = swap_neighbours(images)
        if use_cutmix:
            images, share = paste_box(images, partner, share=share, draw=draw)
        else:
            images = images * share + partner * (1 - share)
        return images, targets * share + swap_neighbours(targets) * (1 - share)


def smooth_one_hot(labels: Int[Tensor, "B"], *, num_classes: int, smoothing: float) -> Float[Tensor, "B C"]:
    """1 − ε (+ ε/C) at the label and ε/C elsewhere (Szegedy et al. 2016)."""
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def swap_neighbours(x: Tensor) -> Tensor:
    """Reorder rows 0, 1, 2, 3 … as 1, 0, 3, 2 …."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def paste_box(images: Tensor, partner: Tensor, *, share: float, draw: random.Random) -> tuple[Tensor, float]:
    """Paste a box of the partner's pixels with area about 1 − `share`; also return the share that really remains."""
    height, width = images.shape[-2:]
    ratio = (1 - share) ** 0.5
    box_height, box_width = int(height * ratio), int(width * ratio)
    y, x = draw.randrange(height), draw.randrange(width)
    top, bottom = max(0, y - box_height // 2), min(height, y + box_height // 2)
    left, right = max(0, x - box_width // 2), min(width, x + box_width // 2)
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside, partner, images), 1 - (bottom - top) * (right - left) / (height * width)
