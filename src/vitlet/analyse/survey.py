"""One pass over the same images for several encoders, feeding all analyses at once.

Images come in batches; within a batch each encoder works through chunks, whose intermediates are dropped as soon as
the analyses have taken what they need. Memory depends on the batch, the chunk and the encoders, not on the number of
images; the one exception, pooled features for the probes, has a limit of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlet.analyse.attention import AttentionStatistics
from vitlet.analyse.similarity import Similarity, require_same_size
from vitlet.analyse.spectrum import Spectrum
from vitlet.data.batch import Batch
from vitlet.errors import NonFiniteError
from vitlet.evaluate.images import each_once
from vitlet.nn.encoder import Encoded, Encoder

CHUNK = 8
"""Images whose intermediates are held at once; the attention logits of one in a ViT-Tiny are 22 MB."""
POOLED_LIMIT = 4096
"""Images whose pooled features are kept: 40 MB for a ViT-Tiny."""


@dataclass(frozen=True)
class Subject:
    """An encoder to look at."""

    name: str
    """Unique among the subjects, fit to print."""
    encoder: Encoder
    source: str = ""
    """The word that named it, for messages and commands; fit to print."""
    token_norm: nn.Module | None = None
    """The norm of a mean-pooling classifier, applied to each token at the last point."""

    def last_norm(self, encoded: Encoded) -> Float[Tensor, "B N D"]:
        """The patch tokens at the last point of CKA.

        The encoder's final norm where it has one; else the classifier's; else normalisation without parameters, as
        the paper's code compares MAE's checkpoints, which hold no such norm.
        """
        if self.token_norm is not None:
            return self.token_norm(encoded.patches)
        if self.encoder.config.final_norm:
            return encoded.patches
        return F.layer_norm(encoded.patches, encoded.patches.shape[-1:], eps=1e-6)


@dataclass
class Looked:
    """What one subject showed."""

    attention: list[AttentionStatistics]
    """One a block."""
    spectrum: Spectrum
    """At the embedding, then after each attention and each MLP."""
    pooled: list[Float[Tensor, "B L D"]] = field(default_factory=list)
    """Means of the patch tokens at the embedding and after each block, batch by batch."""

    def features(self) -> Float[Tensor, "n L D"]:
        """All pooled features, in the order of the images."""
        return torch.cat(self.pooled)


@final
class Survey:
    """The state of the pass; ranks may take different batches and be merged."""

    def __init__(self, subjects: Sequence[Subject], *, epsilon: float = 0.0, pooled: int = POOLED_LIMIT) -> None:
        """What all subjects will be asked.

        Args:
            subjects: One or more.
            epsilon: Added inside the entropy's logarithm.
            pooled: Images whose pooled features are kept, rounded up to whole batches.

        Raises:
            UsageError: if the subjects see images of different sizes.
        """
        require_same_size({s.name: s.encoder.config.image_size for s in subjects})
        self.subjects = tuple(subjects)
        self.similarity = Similarity(sum(len(cka_points(s.encoder)) for s in subjects))
        self.looked = [_new_look(s.encoder, epsilon=epsilon) for s in subjects]
        self.pooled = pooled
        self.labels: list[Tensor] = []
        self.images = 0

    @torch.inference_mode()
    def run(self, batches: Iterable[Batch]) -> None:
        """Look at all images.

        Args:
            batches: Each image once; equally large batches, since each weighs the same in CKA.

        Raises:
            DataError: as `each_once`, or for a batch of fewer than four images.
            NonFiniteError: naming the layer and the file of the encoder whose features are not numbers.
        """
        for subject in self.subjects:
            subject.encoder.eval()
        for batch in each_once(batches):
            keep = self.images < self.pooled
            points: list[Tensor] = []
            for subject, looked in zip(self.subjects, self.looked, strict=True):
                points += _look(subject, looked, batch, keep=keep)
            self.similarity.update(points)
            if keep:
                self.labels.append(batch.labels)
            self.images += len(batch)

    def merge(self, other: "Survey") -> None:
        """Take in what another rank has seen of other batches; its pooled features follow ours."""
        self.similarity.merge(other.similarity)
        for mine, theirs in zip(self.looked, other.looked, strict=True):
            for a, b in zip(mine.attention, theirs.attention, strict=True):
                a.merge(b)
            mine.spectrum.merge(theirs.spectrum)
            mine.pooled += theirs.pooled
        self.labels += other.labels
        self.images += other.images


def cka_points(encoder: Encoder) -> list[str]:
    """The paper's layers: the first LayerNorm of each block, and the final norm."""
    return [*(f"block.{i}.norm1" for i in range(encoder.config.depth)), "norm"]


def depth_points(encoder: Encoder) -> list[str]:
    """The residual stream: the embedding, and the output of each block."""
    return ["embedded", *(f"block.{i}.output" for i in range(encoder.config.depth))]


@torch.inference_mode()
def pooled_features(encoder: Encoder, batches: Iterable[Batch]) -> tuple[Float[Tensor, "n L D"], Int[Tensor, "n"]]:
    """Means of the patch tokens at `depth_points`, and labels; nothing else is traced."""
    features, labels = [], []
    encoder.eval()
    for batch in each_once(batches):
        for images in batch.images.split(8 * CHUNK):
            traced = encoder.encode(encoder.embed(images.to(_device(encoder))), trace=depth_points(encoder)).traced
            features.append(_pool(encoder, traced))
        labels.append(batch.labels)
    return torch.cat(features).clone(), torch.cat(labels).clone()


def _new_look(encoder: Encoder, *, epsilon: float) -> Looked:
    shape = encoder.config
    grid = (shape.grid, shape.grid)
    attention = [AttentionStatistics(shape.heads, grid=grid, epsilon=epsilon) for _ in range(shape.depth)]
    return Looked(attention, Spectrum(1 + 2 * shape.depth, grid=grid))


def _look(subject: Subject, looked: Looked, batch: Batch, *, keep: bool) -> list[Tensor]:
    """Feed one batch to the subject's analyses; returns the features of the CKA points, one tensor a point."""
    encoder = subject.encoder
    traces = [
        f"block.{i}.{p}"
        for i in range(encoder.config.depth)
        for p in ("norm1", "attention_logits", "attention", "output")
    ]
    points: list[list[Tensor]] = [[] for _ in cka_points(encoder)]
    for images in batch.images.split(CHUNK):
        encoded = encoder.encode(encoder.embed(images.to(_device(encoder))), trace=["embedded", *traces])
        _require_finite(encoded, subject)
        traced = encoded.traced
        for i, statistics in enumerate(looked.attention):
            statistics.update(traced.pop(f"block.{i}.attention_logits"))
        looked.spectrum.update([x[:, 1:] for x in _after_each_residual(traced, depth=encoder.config.depth)])
        if keep:
            looked.pooled.append(_pool(encoder, traced))
        features = [*(traced[name][:, 1:] for name in cka_points(encoder)[:-1]), subject.last_norm(encoded)]
        for point, feature in zip(points, features, strict=True):
            point.append(feature.flatten(1))
    return [torch.cat(point) for point in points]


def _after_each_residual(traced: dict[str, Tensor], *, depth: int) -> list[Float[Tensor, "B T D"]]:
    """The residual stream at 1 + 2·depth points."""
    stream = [traced["embedded"]]
    for i in range(depth):
        stream += [stream[-1] + traced[f"block.{i}.attention"], traced[f"block.{i}.output"]]
    return stream


def _pool(encoder: Encoder, traced: dict[str, Tensor]) -> Float[Tensor, "B L D"]:
    return torch.stack([traced[name][:, 1:].float().mean(dim=1) for name in depth_points(encoder)], dim=1).cpu()


def _require_finite(encoded: Encoded, subject: Subject) -> None:
    """What is not finite stays so to the last layer, so only then are the layers searched for the first."""
    if encoded.tokens.isfinite().all():
        return
    order = [*encoded.traced, "norm"]
    layer = next((name for name, value in encoded.traced.items() if not value.isfinite().all()), order[-1])
    raise NonFiniteError(
        f"features of {subject.name} are NaN or infinite from layer {layer} on",
        where=subject.source,
        why="Its weights are damaged, or the training that made them diverged",
        fix="leave it out, or use an earlier checkpoint",
    )


def _device(encoder: Encoder) -> torch.device:
    return next(encoder.parameters()).device
