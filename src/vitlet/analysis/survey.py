"""One pass over the same images with several encoders, feeding all analyses at once.

Images come in batches; within a batch each encoder processes chunks, whose intermediates are dropped as soon as the
analyses have used them. Memory depends on the batch, the chunk and the encoders, not on the number of images; the one
exception, pooled features for the probes, has a limit of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlet.analysis.attention import AttentionStatistics
from vitlet.analysis.similarity import Similarity, require_same_size
from vitlet.analysis.spectrum import Spectrum
from vitlet.data.batch import Batch
from vitlet.distributed import across
from vitlet.errors import NonFiniteError
from vitlet.evaluation.images import each_once
from vitlet.nn.encoder import Encoded, Encoder
from vitlet.nn.heads import Classifier

CHUNK = 8
"""Images whose intermediates are held at once; the attention logits of one image in a ViT-Tiny are 22 MB."""
POOLED_LIMIT = 4096
"""Number of images whose pooled features are kept: 40 MB for a ViT-Tiny."""


@dataclass(frozen=True)
class Subject:
    """An encoder to analyse."""

    name: str
    """Unique among the subjects, safe to print."""
    encoder: Encoder
    source: str = ""
    """The name given by the user, for messages and commands; safe to print."""
    classifier: Classifier | None = None
    """Its head, if it has one; the norm of a mean-pooling head is applied to each token at the last point."""
    classes: tuple[str, ...] = ()
    """Classes of the head."""

    def last_norm(self, encoded: Encoded) -> Float[Tensor, "B N D"]:
        """The patch tokens at the last point of CKA.

        After the norm of a classifier that pools the patches, else after the encoder's final norm; with neither, after
        normalisation without parameters.
        """
        if self.classifier is not None and self.classifier.pool == "mean":
            return self.classifier.fc_norm(encoded.patches)
        if self.encoder.config.final_norm:
            return encoded.patches
        return F.layer_norm(encoded.patches, encoded.patches.shape[-1:], eps=1e-6)


@dataclass
class Looked:
    """Measurements of one subject."""

    attention: list[AttentionStatistics]
    """One per block."""
    spectrum: Spectrum
    """At the embedding, then after each attention and each MLP."""
    patches: Spectrum
    """For the embedded patches alone: an encoder's positions would mask what the patch embedding does."""
    pooled: Float[Tensor, "P L D"]
    """Means of the patch tokens at the embedding and after each block, one row per image; 0 for images not yet seen."""


@final
class Survey:
    """The state of the pass; ranks may process different batches and add up their sums."""

    def __init__(
        self, subjects: Sequence[Subject], *, epsilon: float = 0.0, pooled: int = POOLED_LIMIT, first: int = 0
    ) -> None:
        """Set up the analyses of all subjects.

        Args:
            subjects: One or more.
            epsilon: Added inside the entropy's logarithm.
            pooled: Number of images whose pooled features are kept, the first ones over all ranks.
            first: Number of images processed by lower ranks.

        Raises:
            UsageError: if the subjects take images of different sizes.
        """
        require_same_size({s.name: s.encoder.config.image_size for s in subjects})
        self.subjects = tuple(subjects)
        self.similarity = Similarity(sum(len(cka_points(s.encoder)) for s in subjects))
        self.looked = [_new_look(s.encoder, epsilon=epsilon, pooled=pooled) for s in subjects]
        self._labels = torch.zeros(pooled, dtype=torch.int64)
        self._first = first
        self.images = 0

    @torch.inference_mode()
    def run(self, batches: Iterable[Batch]) -> None:
        """Process all images.

        Args:
            batches: Each image once; batches of equal size, since each has the same weight in CKA.

        Raises:
            DataError: as `each_once`, or for a batch of fewer than four images.
            NonFiniteError: naming the layer and the file of an encoder with non-finite features.
        """
        for subject in self.subjects:
            subject.encoder.eval()
        for batch in each_once(batches):
            row = self._first + self.images
            points: list[Tensor] = []
            for subject, looked in zip(self.subjects, self.looked, strict=True):
                points += _look(subject, looked, batch, row=row)
            self.similarity.update(points)
            _put(self._labels, batch.labels, row=row)
            self.images += len(batch)

    def sum_over_ranks(self) -> None:
        """Add the sums of the other ranks, taken over other batches; a no-op for a single rank."""
        self.similarity.sum_over_ranks()
        for looked in self.looked:
            for attention in looked.attention:
                attention.sum_over_ranks()
            looked.spectrum.sum_over_ranks()
            looked.patches.sum_over_ranks()
            looked.pooled = across.sum(looked.pooled)
        self._labels = across.sum(self._labels)
        self.images = int(across.sum(torch.tensor(self.images)))

    @property
    def labels(self) -> Int[Tensor, "n"]:
        """Labels of the images whose pooled features are kept; -1 without one."""
        return self._labels[: self.images]

    def features(self, subject: int) -> Float[Tensor, "n L D"]:
        """The pooled features of one subject, in the order of the images."""
        return self.looked[subject].pooled[: self.images]


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


def _new_look(encoder: Encoder, *, epsilon: float, pooled: int) -> Looked:
    shape = encoder.config
    grid = (shape.grid, shape.grid)
    attention = [AttentionStatistics(shape.heads, grid=grid, epsilon=epsilon) for _ in range(shape.depth)]
    rows = torch.zeros(pooled, len(depth_points(encoder)), shape.width)
    return Looked(attention, Spectrum(1 + 2 * shape.depth, grid=grid), Spectrum(1, grid=grid), rows)


def _look(subject: Subject, looked: Looked, batch: Batch, *, row: int) -> list[Tensor]:
    """Feed one batch to the subject's analyses; return the features at the CKA points, one tensor per point.

    `row` is the index of the batch's first image over all ranks.
    """
    encoder = subject.encoder
    traces = [
        f"block.{i}.{p}"
        for i in range(encoder.config.depth)
        for p in ("norm1", "attention_logits", "attention", "output")
    ]
    points: list[list[Tensor]] = [[] for _ in cka_points(encoder)]
    for images in batch.images.split(CHUNK):
        patches = encoder.embed(images.to(_device(encoder)))
        encoded = encoder.encode(patches, trace=["embedded", *traces])
        _require_finite(encoded, subject)
        traced = encoded.traced
        for i, statistics in enumerate(looked.attention):
            statistics.update(traced.pop(f"block.{i}.attention_logits"))
        looked.spectrum.update([x[:, 1:] for x in _after_each_residual(traced, depth=encoder.config.depth)])
        looked.patches.update([patches])
        _put(looked.pooled, _pool(encoder, traced), row=row)
        row += len(images)
        features = [*(traced[name][:, 1:] for name in cka_points(encoder)[:-1]), subject.last_norm(encoded)]
        for point, feature in zip(points, features, strict=True):
            point.append(feature.flatten(1))
    return [torch.cat(point) for point in points]


def _put(table: Tensor, rows: Tensor, *, row: int) -> None:
    """Write `rows` from index `row` on, as far as there is room."""
    room = table[row : row + len(rows)]
    room.copy_(rows[: len(room)])


def _after_each_residual(traced: dict[str, Tensor], *, depth: int) -> list[Float[Tensor, "B T D"]]:
    """The residual stream at 1 + 2·depth points."""
    stream = [traced["embedded"]]
    for i in range(depth):
        stream += [stream[-1] + traced[f"block.{i}.attention"], traced[f"block.{i}.output"]]
    return stream


def _pool(encoder: Encoder, traced: dict[str, Tensor]) -> Float[Tensor, "B L D"]:
    return torch.stack([traced[name][:, 1:].float().mean(dim=1) for name in depth_points(encoder)], dim=1).cpu()


def _require_finite(encoded: Encoded, subject: Subject) -> None:
    """Search for the first non-finite layer only if the last one is non-finite, since such values persist."""
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
