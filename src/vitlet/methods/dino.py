"""DINO: a student that sees small crops of an image predicts what its slow-moving copy says about large ones.

Paper: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294. The settings
with which Wang et al. 2023 trained a ViT-Tiny are not known.

Differences from the published code: the teacher's temperature rises per step, not per epoch; the prototypes always
have unit length (an option there); the head may see the mean of the patch tokens. Prototypes start truncated-normal
(0.02), there as torch starts a linear layer, about twice as long: of weights that are normalised only the direction
counts, and one of half the length turns twice as far in a step. For small views the positions are resized with an
antialiased bicubic filter, as timm does, there without antialiasing. Learned ones start as noise, which that averages:
their deviation is 0.007 at first for views of 96 pixels, there 0.017. The fixed ones of `dino_micro` differ by 5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.choices import Pool
from vitlet.data.batch import Batch
from vitlet.distributed import across
from vitlet.methods.objective import Losses, Objective, PartsOfStep, Step, untraced
from vitlet.nn.ema import ema_update, frozen_copy
from vitlet.nn.encoder import Encoder
from vitlet.nn.projection import PrototypeHead
from vitlet.units import cosine

NUM_LARGE = 2
"""The first views of a batch are large; only these are shown to the teacher."""


@dataclass(frozen=True)
class Temperatures:
    """What the outputs are divided by before their softmax."""

    student: float = 0.1
    teacher: tuple[float, float] = (0.04, 0.04)
    """At the first step and from `warmup_steps` on; linear in between."""
    warmup_steps: int = 0

    def of_teacher(self, index: int) -> float:
        """Return the teacher's at a step."""
        start, end = self.teacher
        return start + (end - start) * min(1.0, index / max(1, self.warmup_steps))


class DINO(Objective):
    """Student and teacher of one architecture; the teacher's outputs are centred and sharpened."""

    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        head: PrototypeHead,
        pool: Pool = "class",
        temperatures: Temperatures | None = None,
        centre_momentum: float = 0.9,
        momentum: float = 0.996,
        freeze_prototypes_steps: int = 0,
    ) -> None:
        """Put `head` on `encoder` and copy both for the teacher.

        Args:
            encoder: Its tokens after the final norm feed the head; its `drop_path` applies to the student.
            head: Head with P prototypes.
            pool: What the head sees of an image.
            temperatures: Of student and teacher; None: the published ones.
            centre_momentum: Momentum of the mean of the teacher's outputs, which is subtracted from each of them.
            momentum: Teacher momentum at the first step; it rises to 1 at the last.
            freeze_prototypes_steps: Initial steps during which the prototypes stay frozen.
        """
        super().__init__()
        self.encoder, self.head = encoder, head
        self.pool: Pool = pool
        self.temperatures, self.freeze_prototypes_steps = temperatures or Temperatures(), freeze_prototypes_steps
        self.centre_momentum, self.momentum = centre_momentum, momentum
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_head = frozen_copy(head)
        self.register_buffer("centre", torch.zeros(head.prototypes.out_features))
        self._teacher_sums: PartsOfStep[tuple[Tensor, int]] = PartsOfStep()  # of the outputs, and their number

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Cross-entropy between the teacher's output for each large view and the student's for every other view."""
        student = self.head(self._seen(batch, step), freeze_prototypes=step.index < self.freeze_prototypes_steps)
        with torch.no_grad():
            large = torch.cat(batch.views[:NUM_LARGE])
            teacher = self.teacher_head(self.teacher_encoder.pooled(large, self.pool))
            if self.training:
                self._teacher_sums.add(step, (teacher.float().sum(dim=0), len(teacher)))
            sharp = ((teacher.float() - self.centre) / self.temperatures.of_teacher(step.index)).softmax(dim=1)
        loss = self_distillation(
            student.float().unflatten(0, (-1, len(batch))) / self.temperatures.student,
            sharp.unflatten(0, (NUM_LARGE, len(batch))),
        )
        entropy = torch.special.entr(sharp).sum(dim=1).mean()
        return Losses(total=loss, statistics={"teacher_entropy_nats": entropy})

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's mean output over all ranks."""
        momentum = cosine(step.index, total=step.total, start=self.momentum, end=1.0)
        ema_update(self.teacher_encoder, self.encoder, momentum=momentum)
        ema_update(self.teacher_head, self.head, momentum=momentum)
        sums, counts = zip(*self._teacher_sums.take(), strict=True)
        mean = across.mean(torch.stack(sums).sum(dim=0) / sum(counts))
        self.centre.lerp_(mean, 1 - self.centre_momentum)

    def _seen(self, batch: Batch, step: Step) -> Float[Tensor, "X D"]:
        """The student's pooled tokens of all views, view by view; views of the same size are encoded together."""
        seen: list[Tensor] = []
        for _, same in groupby(range(len(batch.views)), key=lambda view: batch.views[view].shape[-1]):
            views = list(same)
            patches = self.encoder.embed(torch.cat([batch.views[view] for view in views]))
            seen.append(self.encoder.encode(patches, survival=self._survival(batch, step, views)).pooled(self.pool))
        return torch.cat(seen)

    @untraced
    def _survival(self, batch: Batch, step: Step, views: Sequence[int]) -> Tensor | None:
        tables = [self.encoder.survival(key=step.key(f"drop path {view}"), slots=batch.slots) for view in views]
        known = [table for table in tables if table is not None]
        return torch.cat(known, dim=1) if known else None


def self_distillation(student: Float[Tensor, "V B P"], teacher: Float[Tensor, "L B P"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over all pairs of a teacher output and a student output of different views; in nats.

    Args:
        student: Logits for all V views.
        teacher: Probabilities for the first L views; they receive no gradient.
    """
    (num_views, size, _), num_large = student.shape, len(teacher)
    log = student.log_softmax(dim=-1)
    every_pair = (teacher.sum(dim=0) * log.sum(dim=0)).sum()
    same_view = (teacher * log[:num_large]).sum()
    return (same_view - every_pair) / (num_large * (num_views - 1) * size)
