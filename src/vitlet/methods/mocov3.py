"""MoCo-v3: two views of an image must identify each other among all images of the batch.

Paper: Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057;
in the ViT-Tiny form of Wang et al. 2023, where the patch embedding is trained.

Differences, none of which changes the loss: the encoder sees both views in one pass (batch statistics, which are kept
per view, occur in the heads only); the momentum encoder moves after the step and not before the next one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.distributed import across
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.nn.ema import ema_update, frozen_copy
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.nn.projection import batchnorm_mlp
from vitlet.rng import derive
from vitlet.units import cosine


class MoCoV3(Objective):
    """An encoder with projector and predictor for the queries, and a slow copy without predictor for the keys."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden_width: int = 4096,
        output_width: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        train_patches: bool = True,
        seed: int = 0,
    ) -> None:
        """Add new heads to `encoder`, and copy it.

        Args:
            encoder: Its class token after the final norm is compared.
            hidden_width: Hidden width of projector (two hidden layers) and predictor (one).
            output_width: Dimension of the space in which views are compared.
            temperature: τ.
            momentum: Momentum of the momentum encoder at the first step; it rises to 1 at the last.
            train_patches: False keeps the random patch embedding fixed, which stabilises larger networks.
            seed: Seed of the heads' initial weights.
        """
        super().__init__()
        self.encoder = encoder
        self.temperature, self.momentum = temperature, momentum
        encoder.vit.patch_embed.requires_grad_(train_patches)
        with seeded(derive(seed, "moco heads")):
            self.projector = batchnorm_mlp([encoder.config.width, hidden_width, hidden_width, output_width])
            self.predictor = batchnorm_mlp([output_width, hidden_width, output_width])
        self.momentum_encoder = frozen_copy(encoder)
        self.momentum_projector = frozen_copy(self.projector)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """InfoNCE of each view's queries against all ranks' keys of the other view."""
        first, second = batch.views
        images = torch.cat([first, second])
        queries = [self.predictor(self.projector(half)) for half in self.encoder.pooled(images, "class").chunk(2)]
        with torch.no_grad():
            halves = self.momentum_encoder.pooled(images, "class").chunk(2)
            keys = [across.gather(self.momentum_projector(half)) for half in halves]
        own = across.rank() * len(batch)
        forth = info_nce(queries[0], keys[1], own=own, temperature=self.temperature)
        back = info_nce(queries[1], keys[0], own=own, temperature=self.temperature)
        hits = _found(queries[0], keys[1], own=own)
        return Losses(total=forth + back, statistics={"pairs_found": hits})

    def after_step(self, step: Step) -> None:
        """Update the momentum copy, with the momentum of the coming step."""
        momentum = cosine(step.index + 1, total=step.total, start=self.momentum, end=1.0)
        ema_update(self.momentum_encoder, self.encoder, momentum=momentum)
        ema_update(self.momentum_projector, self.projector, momentum=momentum)


def info_nce(
    queries: Float[Tensor, "B O"], keys: Float[Tensor, "G O"], *, own: int, temperature: float
) -> Float[Tensor, ""]:
    """2τ times the cross-entropy of identifying each query's own key among all keys by cosine (van den Oord 2018).

    Args:
        queries: Queries of this rank; need not have unit length.
        keys: Keys of all G images of the global batch.
        own: Row of the first query's key; the others follow in order.
        temperature: τ, which divides the cosines.
    """
    logits = _cosines(queries, keys) / temperature
    labels = torch.arange(own, own + len(queries), device=queries.device)
    return 2 * temperature * F.cross_entropy(logits, labels)


@torch.no_grad()
def _found(queries: Tensor, keys: Tensor, *, own: int) -> Float[Tensor, ""]:
    """The share of queries nearest to their own key: 1/G at chance."""
    nearest = _cosines(queries, keys).argmax(dim=1)
    return (nearest == torch.arange(own, own + len(queries), device=queries.device)).float().mean()


def _cosines(queries: Tensor, keys: Tensor) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):  # bf16 would round cosines to 1 in 256
        return F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
