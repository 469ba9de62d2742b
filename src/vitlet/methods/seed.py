"""SEED: a small network learns how similar a large one finds each image to thousands of others.

Paper: Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation", arXiv 2101.04731; the run with
an EfficientNet-B0 that Wang et al. 2023 mention.

Differences: the teacher is any encoder, a ViT or a ConvNet, whose features are compared directly, since encoder files
carry no projection head; so the student's head ends in the teacher's width. The queue moves after the optimizer step
and is ordered by the slot in the global batch, so it does not depend on ranks and accumulation.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlet.choices import Pool
from vitlet.data.batch import Batch
from vitlet.distributed import across
from vitlet.errors import UsageError
from vitlet.methods.objective import Losses, Objective, PartsOfStep, Step
from vitlet.nn.convnet import AnyEncoder, ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.frozen import Frozen
from vitlet.nn.init import seeded
from vitlet.rng import derive
from vitlet.weights.teacher import FeatureTeacher


class SEED(Objective):
    """A student of any kind, a frozen teacher, and a queue of the teacher's features of recent images."""

    def __init__(
        self,
        encoder: AnyEncoder,
        teacher: FeatureTeacher,
        *,
        pool: Pool = "class",
        queue: int = 65_536,
        student_temperature: float = 0.2,
        teacher_temperature: float = 0.01,
        seed: int = 0,
    ) -> None:
        """Put a new two-layer head on the student and fill the queue with random directions.

        Args:
            encoder: The student: a ViT or a ConvNet.
            teacher: Teacher, a ViT for images of the student's size or a ConvNet, which has no grid; it is frozen and
                stays out of `state_dict()`.
            pool: How to pool a ViT, student or teacher, into one vector; a ConvNet uses the mean of its map.
            queue: K, the number of images that each image is compared with.
            student_temperature: Temperature of the student's similarities.
            teacher_temperature: Temperature of the teacher's; the lower, the fewer neighbours count.
            seed: Seed of head and queue.

        Raises:
            UsageError: for a ViT as teacher of images of another size, or the class token of one without a final norm.
        """
        super().__init__()
        # Wider than in other methods: SEED needs only one vector per image, which a ConvNet has too.
        self.encoder: AnyEncoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        self.teacher, self.facts = Frozen(teacher.encoder), teacher.facts
        self.teacher_pool: Pool = _pool(teacher.encoder, pool)
        self.student_pool: Pool = _pool(encoder, pool)
        _require_same_images(encoder, teacher.encoder)
        if self.teacher_pool == "class" and not cast(Encoder, teacher.encoder).config.final_norm:
            raise UsageError(
                "the teacher has no final norm",
                why="It was trained by the mean of its patches, and its class token was never used",
                fix="objective.pool=mean",
            )
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        width, out = encoder.width, teacher.encoder.width
        with seeded(derive(seed, "seed head")):
            self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
            directions = F.normalize(torch.randn(queue, out), dim=1)
        self.register_buffer("queue", directions)
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._teacher_features: PartsOfStep[Tensor] = PartsOfStep()

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Cross-entropy between the teacher's and the student's similarities to the same images."""
        with torch.no_grad():
            teacher = F.normalize(self.teacher.network.pooled(batch.images, self.teacher_pool).float(), dim=1)
        self._teacher_features.add(step, teacher)
        student = F.normalize(self.head(self.encoder.pooled(batch.images, self.student_pool)).float(), dim=1)
        loss, entropy = similarity_loss(
            student,
            teacher,
            cast(Tensor, self.queue),
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        return Losses(total=loss, statistics={"teacher_entropy_nats": entropy})

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Enqueue the teacher's features of the whole batch, replacing the oldest."""
        queue, place = cast(Tensor, self.queue), cast(Tensor, self.place)
        rows = across.gather(torch.cat(self._teacher_features.take()))[-len(queue) :]
        queue[(place + torch.arange(len(rows), device=queue.device)) % len(queue)] = rows
        place.copy_((place + len(rows)) % len(queue))

    def provenance(self) -> dict[str, Any]:
        """The teacher."""
        return {"teacher": self.facts}


def _require_same_images(student: AnyEncoder, teacher: AnyEncoder) -> None:
    """Patches of a teacher of larger images would be few on these, or cut by their edge."""
    ours, theirs = student.config.image_size, teacher.config.image_size
    if isinstance(teacher, Encoder) and ours != theirs:
        keys = ("encoder.image_size", "data.views.0.size", "data.evaluation.size")
        raise UsageError(
            f"the teacher sees {theirs} px in patches of {teacher.config.patch_size}, the student {ours} px",
            why="Both are shown the same view, and a ViT has learned the grid of its own images",
            fix=f"a teacher of {ours} px, or {', '.join(f'{key}={theirs}' for key in keys)}",
        )


def _pool(encoder: AnyEncoder, wanted: Pool) -> Pool:
    return "mean" if isinstance(encoder, ConvEncoder) else wanted


def similarity_loss(
    student: Float[Tensor, "B D"],
    teacher: Float[Tensor, "B D"],
    queue: Float[Tensor, "K D"],
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of two softmaxes over K + 1 images: the queue, and the image itself as the teacher sees it.

    Args:
        student: Unit vectors.
        teacher: Unit vectors of the same images; they receive no gradient.
        queue: The teacher's unit vectors of other images.
        student_temperature: Divides the student's cosines.
        teacher_temperature: Divides the teacher's cosines.

    Returns:
        The loss in nats, and the teacher's mean entropy, below which the loss cannot fall.
    """
    teacher = teacher.detach()

    def log_shares(x: Tensor, temperature: float) -> Tensor:
        cosines = torch.cat([(x * teacher).sum(dim=1, keepdim=True), x @ queue.T], dim=1)
        return (cosines / temperature).log_softmax(dim=1)

    with torch.autocast(student.device.type, enabled=False):  # a hundredth of a cosine is a whole unit of a logit here
        wanted = log_shares(teacher, teacher_temperature)
        found = log_shares(student, student_temperature)
    likely = wanted.exp()
    return -(likely * found).sum(dim=1).mean(), -(likely * wanted).sum(dim=1).mean()
