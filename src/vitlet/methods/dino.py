"""DINO: a student that sees small parts of an image guesses what its slow copy says about large ones.

Paper: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294. Its settings
for a ViT-Tiny as Wang et al. 2023 trained it are not known.

Differences from the published code: the teacher's temperature rises per step, not per epoch; the prototypes are always
of unit length (an option there).
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.methods.objective import Losses, Objective, Step, untraced
from vitlet.nn import across
from vitlet.nn.ema import ema_update, frozen_copy
from vitlet.nn.encoder import Encoder
from vitlet.nn.mlp import PrototypeHead
from vitlet.units import cosine

NUM_LARGE = 2
"""The first views of a batch are large, and the only ones that the teacher sees."""


class DINO(Objective):
    """Student and teacher of one architecture; the teacher's answers are centred and sharpened."""

    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        head: PrototypeHead,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.04),
        warmup_steps: int = 0,
        centre_momentum: float = 0.9,
        momentum: float = 0.996,
        held_steps: int = 0,
    ) -> None:
        """`head` on `encoder`, and a copy of both.

        Args:
            encoder: Its class token after the final norm goes into the head; its `drop_path` is the student's.
            head: To P prototypes.
            student_temperature: By which cosines are divided before the softmax.
            teacher_temperature: At the first step and from `warmup_steps` on; linear between.
            warmup_steps: Of the teacher's temperature.
            centre_momentum: Of the mean of the teacher's answers, which is taken from each of them.
            momentum: Of the teacher at the first step; it rises to 1 at the last.
            held_steps: Steps at the start during which the prototypes stay as they are.
        """
        super().__init__()
        self.encoder, self.head = encoder, head
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.warmup_steps, self.held_steps = warmup_steps, held_steps
        self.centre_momentum, self.momentum = centre_momentum, momentum
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_head = frozen_copy(head)
        self.register_buffer("centre", torch.zeros(head.prototypes.out_features))
        self._answers: list[Tensor] = []  # sums over the parts of the step's batch, until `after_step` uses them
        self._answered = 0

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Cross-entropy between the teacher's answer to each large view and the student's to every other view."""
        guesses = self.head(self._student_tokens(batch, step), hold_prototypes=step.index < self.held_steps)
        with torch.no_grad():
            large = torch.cat(batch.views[:NUM_LARGE])
            answers = self.teacher_head(self.teacher_encoder.pooled(large, "class"))
            self._note(answers)
            sharp = ((answers.float() - self.centre) / self._temperature(step)).softmax(dim=1)
        loss = self_distillation(
            guesses.float().unflatten(0, (-1, len(batch))) / self.student_temperature,
            sharp.unflatten(0, (NUM_LARGE, len(batch))),
        )
        entropy = torch.special.entr(sharp).sum(dim=1).mean()
        return Losses(total=loss, statistics={"teacher_entropy_nats": entropy})

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Let the teacher follow the student, and the centre the teacher's answers on all ranks."""
        momentum = cosine(step.index, total=step.total, start=self.momentum, end=1.0)
        ema_update(self.teacher_encoder, self.encoder, momentum=momentum)
        ema_update(self.teacher_head, self.head, momentum=momentum)
        seen = across.mean(torch.stack(self._answers).sum(dim=0) / self._answered)
        self.centre.lerp_(seen, 1 - self.centre_momentum)
        self._answers, self._answered = [], 0

    def _student_tokens(self, batch: Batch, step: Step) -> Float[Tensor, "X D"]:
        """Class tokens of all views, view by view; views of one size go through the encoder together."""
        tokens: list[Tensor] = []
        for _, same in groupby(range(len(batch.views)), key=lambda view: batch.views[view].shape[-1]):
            views = list(same)
            patches = self.encoder.embed(torch.cat([batch.views[view] for view in views]))
            tokens.append(self.encoder.encode(patches, survival=self._survival(batch, step, views)).class_token)
        return torch.cat(tokens)

    @untraced
    def _survival(self, batch: Batch, step: Step, views: Sequence[int]) -> Tensor | None:
        tables = [self.encoder.survival(key=step.key(f"drop path {view}"), slots=batch.slots) for view in views]
        known = [table for table in tables if table is not None]
        return torch.cat(known, dim=1) if known else None

    def _temperature(self, step: Step) -> float:
        start, end = self.teacher_temperature
        return start + (end - start) * min(1.0, step.index / max(1, self.warmup_steps))

    @untraced
    def _note(self, answers: Tensor) -> None:
        if self.training:
            self._answers.append(answers.float().sum(dim=0))
            self._answered += len(answers)


def self_distillation(guesses: Float[Tensor, "V B P"], answers: Float[Tensor, "L B P"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over all pairs of an answer and a guess from another view; in nats.

    Args:
        guesses: The student's logits, of all V views.
        answers: The teacher's probabilities, of the first L views; no gradient reaches them.
    """
    (num_views, size, _), num_answers = guesses.shape, len(answers)
    log = guesses.log_softmax(dim=-1)
    every_pair = (answers.sum(dim=0) * log.sum(dim=0)).sum()
    same_view = (answers * log[:num_answers]).sum()
    return (same_view - every_pair) / (num_answers * (num_views - 1) * size)
