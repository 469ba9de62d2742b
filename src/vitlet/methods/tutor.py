"""Fine-tuning with a supervised teacher: a second head, on the class token, imitates the teacher's predictions.

Paper: Touvron et al. 2021 (DeiT, hard distillation); Wang et al. 2023, first version, where the class token doubles as
the distillation token, since the first head pools the patches and leaves it unused.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlet.nn.encoder import Encoded
from vitlet.nn.frozen import Frozen
from vitlet.nn.init import init_timm, seeded
from vitlet.nn.pixels import scale_and_shift
from vitlet.rng import derive
from vitlet.weights.teacher import ClassifierTeacher


class Tutor(nn.Module):
    """The second head and the frozen teacher; the teacher is not part of any `state_dict()`."""

    def __init__(self, teacher: ClassifierTeacher, *, width: int, alpha: float = 0.5, seed: int = 0) -> None:
        """Tensors are `dist_norm.*` and `head_dist.*`.

        Args:
            teacher: Classifier with the student's classes.
            width: D of the student.
            alpha: Weight of the teacher's predictions; 1 − alpha is that of the labels.
            seed: Seed of the head's initial weights.
        """
        super().__init__()
        self.teacher, self.alpha = Frozen(teacher.network), alpha
        self.facts: dict[str, Any] = teacher.facts
        self.classes = teacher.classes
        with seeded(derive(seed, "tutor")):
            self.dist_norm = nn.LayerNorm(width, eps=1e-6)
            self.head_dist = nn.Linear(width, teacher.num_classes)
            self.head_dist.apply(init_timm)
        scale, shift = (values.view(3, 1, 1) for values in scale_and_shift(teacher.normalisation))
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)

    def forward(self, encoded: Encoded) -> Float[Tensor, "B C"]:
        """Logits of the second head."""
        return self.head_dist(self.dist_norm(encoded.class_token))

    def loss(self, encoded: Encoded, images: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy of the second head with the teacher's predicted classes for the same, mixed, images."""
        return F.cross_entropy(self(encoded).float(), self.targets(images))

    @torch.no_grad()
    def targets(self, images: Tensor) -> Int[Tensor, "B"]:
        """The teacher's predicted class for each image (0 … 255)."""
        pixels = torch.addcmul(cast(Tensor, self._shift), images.float(), cast(Tensor, self._scale))
        return self.teacher.network(pixels).argmax(dim=1)
