"""What each layer holds: rank and spread of its features, probe accuracy, and norms of weights and gradients.

A layer's features are the means of its patch tokens: of the embedding (layer 0) and of each block's output.

Papers: the effective rank is RankMe (Garrido et al. 2023), as in `vitlet.evaluation.health`; probing layer by layer
follows Alain and Bengio 2016; principal components of patch tokens as colours follow DINOv2 (Oquab et al. 2023).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlet.choices import LayerProbe
from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.evaluation.health import Health, feature_health
from vitlet.evaluation.probe import ProbeResult, knn_probe
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier

PARTS = ("attention", "mlp")
"""Parts of a block whose weights are measured separately; norms belong to the part they feed."""

_GRADIENT_CHUNK = 32
"""Images whose activations are held for one backward pass."""


@dataclass(frozen=True)
class ProbeCurve:
    """Accuracy of a simple classifier on each layer's features."""

    protocol: LayerProbe
    correct: Bool[np.ndarray, "L n"]
    """Whether each test image was classified correctly."""

    @property
    def top1(self) -> list[float]:
        """Accuracy per layer."""
        return self.correct.mean(axis=1).tolist()


def healths(features: Float[Tensor, "n L D"]) -> list[Health]:
    """Spread and effective rank per layer."""
    return [feature_health(layer) for layer in features.unbind(1)]


def probe_curve(
    protocol: LayerProbe,
    train: tuple[Float[Tensor, "n L D"], Int[Tensor, "n"]],
    test: tuple[Float[Tensor, "m L D"], Int[Tensor, "m"]],
    *,
    seed: int,
    classes: Sequence[str] = (),
) -> ProbeCurve:
    """Fit a probe on each layer: 20 nearest neighbours, or logistic regression.

    Raises:
        DataError: if the labels cannot be learned or evaluated.
    """
    fit: Callable[..., ProbeResult] = knn_probe
    if protocol == "logistic":
        from vitlet.evaluation.logistic import logistic_probe

        fit = partial(logistic_probe, seed=seed)
    (x, y), (x_test, y_test) = train, test
    layers = zip(x.unbind(1), x_test.unbind(1), strict=True)
    rows = [fit(here, y, there, y_test, classes=classes).correct for here, there in layers]
    return ProbeCurve(protocol, np.stack(rows))


def weight_norms(encoder: Encoder) -> dict[str, list[float]]:
    """Root mean square of each block's weights, separately for attention and MLP."""
    return {part: [_rms(tensors) for tensors in blocks] for part, blocks in _parts(_weights(encoder)).items()}


def gradient_norms(encoder: Encoder, classifier: Classifier, batches: Iterable[Batch]) -> dict[str, list[float]]:
    """Root mean square of the loss gradient with respect to each block's weights, separately for attention and MLP.

    The loss is the classifier's mean cross-entropy over unmodified images: no augmentation, mixing or dropped paths.

    Args:
        encoder: Encoder whose weights are not frozen.
        classifier: Its head.
        batches: Images labelled with the head's class numbers.
    """
    encoder.eval()
    weights = _weights(encoder)
    wanted = [tensor for block in weights for tensor in block.values()]
    sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in wanted]
    images = 0
    for batch in batches:
        for part in batch.parts(_GRADIENT_CHUNK):
            part = part.to(wanted[0].device)
            logits = classifier(encoder.encode(encoder.embed(part.images)))
            loss = F.cross_entropy(logits.float(), part.labels, reduction="sum")
            for total, gradient in zip(sums, torch.autograd.grad(loss, wanted), strict=True):
                total += gradient
            images += len(part)
    means = iter([total / images for total in sums])
    gradients = [{name: next(means) for name in block} for block in weights]
    return {part: [_rms(tensors) for tensors in blocks] for part, blocks in _parts(gradients).items()}


def weight_distances(before: Encoder, after: Encoder) -> dict[str, list[float]]:
    """Relative change of each block's weights, ‖after − before‖ / ‖before‖, separately for attention and MLP.

    Raises:
        UsageError: if the two have different shapes.
    """
    if not same_shape(before, after):
        raise UsageError("weights of different shapes cannot be subtracted", fix="compare encoders of one shape")
    moved: dict[str, list[float]] = {}
    first, second = _parts(_weights(before)), _parts(_weights(after))
    for part in PARTS:
        pairs = zip(first[part], second[part], strict=True)
        moved[part] = [_rms([b - a for a, b in zip(x, y, strict=True)]) / _rms(x) for x, y in pairs]
    return moved


def same_shape(a: Encoder, b: Encoder) -> bool:
    """Whether the blocks of the two have the same tensor shapes."""
    shapes = [[p.shape for p in encoder.vit.blocks.parameters()] for encoder in (a, b)]
    return shapes[0] == shapes[1]


def principal_colours(tokens: Float[Tensor, "B N D"], *, grid: tuple[int, int]) -> UInt8[np.ndarray, "B h w 3"]:
    """Map the first three principal components of all tokens jointly to red, green and blue.

    Each component is stretched from its 2nd to its 98th percentile; its sign makes the largest loading positive.
    Colours are comparable between images, not between layers or models.
    """
    flat = tokens.flatten(0, 1).double()
    centred = flat - flat.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    projected = (centred @ axes).numpy()
    low, high = np.percentile(projected, (2, 98), axis=0)
    scaled = np.clip((projected - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours = np.zeros((len(projected), 3))
    colours[:, : scaled.shape[1]] = scaled
    return (255 * colours).round().astype(np.uint8).reshape(len(tokens), *grid, 3)


def class_attention(logits: Float[Tensor, "B A T T"]) -> Float[Tensor, "B A N"]:
    """The class token's attention over the patches, per head; sums to 1 over the patches."""
    return logits[:, :, 0, 1:].float().softmax(dim=-1)


def _weights(encoder: Encoder) -> list[dict[str, Tensor]]:
    """The parameters of each block by name."""
    return [dict(block.named_parameters()) for block in encoder.blocks]


def _parts(blocks: Sequence[Mapping[str, Tensor]]) -> dict[str, list[list[Tensor]]]:
    """Group the tensors of each block by part."""
    parts: dict[str, list[list[Tensor]]] = {part: [] for part in PARTS}
    for block in blocks:
        named = [(name, tensor.detach().double().cpu()) for name, tensor in block.items()]
        parts["attention"].append([p for name, p in named if name.startswith(("attn", "norm1", "ls1"))])
        parts["mlp"].append([p for name, p in named if name.startswith(("mlp", "norm2", "ls2"))])
    return parts


def _rms(tensors: Sequence[Tensor]) -> float:
    total = sum(float(t.square().sum()) for t in tensors)
    return math.sqrt(total / sum(t.numel() for t in tensors))
