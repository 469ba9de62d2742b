"""Distillation, MoCo-v3 and fine-tuning as plain CPU code, with the weights of ours.

Written from the papers, without their optimisations or ours: the distillation teacher computes all of its last block;
MoCo-v3 encodes one view after the other; mixing happens on normalised floats. Each module is called with normalised
images and returns the loss.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlet.benchmarks.reference import PlainBlock, PlainEncoder, PlainMAE
from vitlet.methods.distill import AttentionDistillation
from vitlet.methods.mocov3 import MoCoV3
from vitlet.methods.supervised import Supervised
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier


class PlainDistillation(nn.Module):
    """MAE, and a teacher of the visible patches: the logits of both last blocks, with heads mixed by a matrix."""

    def __init__(self, ours: AttentionDistillation) -> None:
        """Copy `ours`, which compares one pair of layers: the last of each side."""
        super().__init__()
        self.mae, self.teacher = PlainMAE(ours.mae), PlainEncoder(ours.teacher.network).requires_grad_(False)
        self.mixer = copy.deepcopy(ours.mixers[0])
        assert ours.layers == ((len(self.mae.encoder.blocks), len(self.teacher.blocks)),)

    def forward(self, images: Float[Tensor, "B 3 H W"], noise: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """Return the reconstruction loss plus the attention loss."""
        keep = self.mae.visible(noise)
        reconstruction = self.mae.loss(images, self.mae.encoder(images, keep), noise)
        with torch.no_grad():
            self.teacher(images, keep)
        student, teacher = (cast(PlainBlock, e.blocks[-1]).attn.logits for e in (self.mae.encoder, self.teacher))
        mixed = self.mixer(student.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return reconstruction + ((mixed - teacher) ** 2).mean()


class PlainMoCo(nn.Module):
    """Two views, one after the other, through an encoder and through its momentum copy."""

    def __init__(self, ours: MoCoV3) -> None:
        """Copy `ours`."""
        super().__init__()
        self.temperature = ours.temperature
        self.encoder, self.momentum_encoder = PlainEncoder(ours.encoder), PlainEncoder(ours.momentum_encoder)
        self.projector, self.predictor = _plain_heads(ours.projector), _plain_heads(ours.predictor)
        self.momentum_projector = _plain_heads(ours.momentum_projector)
        for copied in (self.momentum_encoder, self.momentum_projector):
            copied.requires_grad_(False)

    def forward(self, first: Float[Tensor, "B 3 H W"], second: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """Return the loss over both directions."""
        views = (first, second)
        queries = [self.predictor(self.projector(self.encoder(view)[:, 0])) for view in views]
        with torch.no_grad():
            keys = [self.momentum_projector(self.momentum_encoder(view)[:, 0]) for view in views]
        return self._contrast(queries[0], keys[1]) + self._contrast(queries[1], keys[0])

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / self.temperature
        return F.cross_entropy(logits, torch.arange(len(queries))) * 2 * self.temperature

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Update the momentum copies."""
        pairs = ((self.momentum_encoder, self.encoder), (self.momentum_projector, self.projector))
        for theirs, ours in pairs:
            for slow, fast in zip(theirs.parameters(), ours.parameters(), strict=True):
                slow.data = slow.data * momentum + fast.data * (1 - momentum)


class PlainFinetuning(nn.Module):
    """Encode all patches, average them, normalise, classify; cross-entropy with mixed labels."""

    def __init__(self, ours: Supervised) -> None:
        """Copy `ours`, a ViT with mean pooling."""
        super().__init__()
        self.encoder = PlainEncoder(ours.encoder)  # type: ignore[arg-type]
        head = cast(Classifier, ours.classifier)
        self.norm, self.head = copy.deepcopy(head.fc_norm), copy.deepcopy(head.head)

    def forward(self, images: Float[Tensor, "B 3 H W"], labels: Int[Tensor, "B"], share: float) -> Float[Tensor, ""]:
        """Mix each image with its neighbour in the batch, keeping `share` of itself, and return the loss."""
        partner = torch.arange(len(images)).view(-1, 2).flip(1).flatten()
        mixed = images * share + images[partner] * (1 - share)
        targets = F.one_hot(labels, self.head.out_features).float()
        targets = targets * share + targets[partner] * (1 - share)
        logits = self.head(self.norm(self.encoder(mixed)[:, 1:].mean(dim=1)))
        return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def _plain_heads(ours: nn.Sequential) -> nn.Sequential:
    """The same layers, with torch's own batch normalisation."""
    layers: list[nn.Module] = []
    for layer in ours:
        if isinstance(layer, nn.BatchNorm1d):
            plain = nn.BatchNorm1d(layer.num_features, affine=layer.affine)
            plain.load_state_dict(layer.state_dict())
            layers.append(plain)
        else:
            layers.append(copy.deepcopy(layer))
    return nn.Sequential(*layers)


def normalised(encoder: Encoder, images: Tensor) -> Tensor:
    """Normalise images of 0 … 255 for the network, one operation at a time."""
    mean, std = (torch.tensor(x)[:, None, None] for x in encoder.normalisation)
    return (images / 255 - mean) / std
