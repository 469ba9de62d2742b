"""Classification heads: timm's two forms for a ViT and its one for a ConvNet."""

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitlet.choices import Pool
from vitlet.nn.convnet import AnyEncoder, ConvEncoder
from vitlet.nn.encoder import Encoded
from vitlet.nn.init import init_timm, seeded
from vitlet.rng import derive


class Classifier(nn.Module):
    """Pool, (norm,) linear. Tensors are timm's `fc_norm.*` and `head.*`."""

    def __init__(self, width: int, *, num_classes: int, pool: Pool, seed: int) -> None:
        """`mean`: average of the patch tokens, then the head's own LayerNorm; `class`: the class token unchanged."""
        super().__init__()
        self.pool: Pool = pool
        with seeded(derive(seed, "classifier")):
            self.fc_norm = nn.LayerNorm(width, eps=1e-6) if pool == "mean" else nn.Identity()
            self.head = nn.Linear(width, num_classes)
            self.head.apply(init_timm)

    def forward(self, encoded: Encoded) -> Float[Tensor, "B C"]:
        """Class logits."""
        return self.head(self.fc_norm(encoded.pooled(self.pool)))


class ConvClassifier(nn.Linear):
    """A linear layer on the pooled features of a ConvNet. Tensors are `weight` and `bias`, since timm's networks name
    the layer differently.
    """

    pool: Pool = "mean"

    def __init__(self, width: int, *, num_classes: int, seed: int) -> None:
        """Random weights."""
        with seeded(derive(seed, "classifier")):
            super().__init__(width, num_classes)
            init_timm(self)


AnyClassifier = Classifier | ConvClassifier


def new_classifier(encoder: AnyEncoder, *, num_classes: int, pool: Pool, seed: int) -> AnyClassifier:
    """Create a new head that fits `encoder`; for a ConvNet it takes the mean of the map, whatever `pool` says."""
    if isinstance(encoder, ConvEncoder):
        return ConvClassifier(encoder.width, num_classes=num_classes, seed=seed)
    return Classifier(encoder.config.width, num_classes=num_classes, pool=pool, seed=seed)


def head_input(
    encoder: AnyEncoder,
    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
    *,
    survival: Float[Tensor, "P B"] | None = None,
) -> Encoded | Float[Tensor, "B D"]:
    """Compute what the head of `new_classifier` reads: all tokens of a ViT, the pooled features of a ConvNet.

    Args:
        encoder: Encoder, already in the desired mode.
        images: Images with values 0 … 255.
        survival: Factors for stochastic depth in a ViT, from `Encoder.survival`.
    """
    if isinstance(encoder, ConvEncoder):
        return encoder.pooled(images, "mean")
    return encoder.encode(encoder.embed(images), survival=survival)
