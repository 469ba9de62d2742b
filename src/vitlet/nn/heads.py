"""Heads on an encoder: the classifier, in timm's two forms."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vitlet.nn.encoder import Encoded
from vitlet.nn.init import init_timm, seeded
from vitlet.rng import derive


class Classifier(nn.Module):
    """Pool, (norm,) linear. Tensors are timm's `fc_norm.*` and `head.*`."""

    def __init__(self, width: int, *, num_classes: int, pool: Literal["mean", "class"], seed: int) -> None:
        """`mean`: average of the patch tokens, then a LayerNorm of its own; `class`: the class token as it is."""
        super().__init__()
        self.pool: Literal["mean", "class"] = pool
        with seeded(derive(seed, "classifier")):
            self.fc_norm = nn.LayerNorm(width, eps=1e-6) if pool == "mean" else nn.Identity()
            self.head = nn.Linear(width, num_classes)
            self.head.apply(init_timm)

    def forward(self, encoded: Encoded) -> Float[Tensor, "B C"]:
        """Logits of the classes."""
        return self.head(self.fc_norm(encoded.pooled(self.pool)))
