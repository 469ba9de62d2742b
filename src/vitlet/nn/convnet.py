"""timm ConvNets as encoders, for methods that need only one vector per image.

They have no patches and no class token, so nothing that cuts, hides or inspects patches can use them. Saved tensors
keep timm's keys. Batch normalisation sees the whole batch, across all ranks.
"""

from typing import Any, cast

import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitlet.choices import Pool
from vitlet.distributed import across
from vitlet.errors import UsageError
from vitlet.nn.batchnorm import GlobalBatchNorm1d
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import AnyEncoderConfig, ConvNetConfig
from vitlet.rng import derive
from vitlet.text import did_you_mean


class ConvEncoder(nn.Module):
    """A ConvNet without a head, together with the normalisation of its pixels."""

    def __init__(self, config: ConvNetConfig, *, normalisation: Normalisation = IMAGENET, seed: int = 0) -> None:
        """Initialise a ConvNet randomly; the same seed gives the same weights on every machine.

        Args:
            config: Architecture and image size.
            normalisation: Of the pixels that it will see.
            seed: Seed of the initial weights.

        Raises:
            UsageError: if timm has no ConvNet of that name that accepts images of this size.
        """
        super().__init__()
        self.config = config
        self.normalisation = normalisation
        with seeded(derive(seed, "encoder")):
            self.net = _make(config)
        _see_whole_batch(self.net)
        self.width: int = cast(int, self.net.head_hidden_size)
        self.head_name: str = cast(dict[str, Any], self.net.pretrained_cfg)["classifier"]
        # Not in the state dict: they belong to the preprocessing and are saved beside the weights.
        self.register_buffer("_mean", torch.tensor(normalisation.mean)[:, None, None] * 255, persistent=False)
        self.register_buffer("_deviation", torch.tensor(normalisation.std)[:, None, None] * 255, persistent=False)

    @property
    def network(self) -> nn.Module:
        """The module of timm, whose tensor names are those of files."""
        return self.net

    def pooled(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"], pool: Pool) -> Float[Tensor, "B D"]:
        """One feature vector per image: the mean over the last feature map, as timm's network passes it to its head.

        Raises:
            UsageError: for the class token, which a ConvNet lacks.
        """
        if pool != "mean":
            raise UsageError("a ConvNet has no class token", fix="--pool mean")
        return self.net((images.float() - cast(Tensor, self._mean)) / cast(Tensor, self._deviation))


AnyEncoder = Encoder | ConvEncoder
"""Encoders accepted by probes, features and export."""


def new_encoder(config: AnyEncoderConfig, *, normalisation: Normalisation = IMAGENET, seed: int = 0) -> AnyEncoder:
    """Build the encoder that `config` describes, with random weights; see `Encoder` and `ConvEncoder`.

    Raises:
        UsageError: if timm has no such ConvNet.
    """
    if isinstance(config, ConvNetConfig):
        return ConvEncoder(config, normalisation=normalisation, seed=seed)
    return Encoder(config, normalisation=normalisation, seed=seed)


def require_patches(encoder: AnyEncoder, *, purpose: str) -> Encoder:
    """Return `encoder` if it is a ViT.

    Raises:
        UsageError: otherwise, saying that `purpose` (a noun) works on patches.
    """
    if isinstance(encoder, ConvEncoder):
        raise UsageError(
            f"{purpose} needs a vision transformer, and {encoder.config.architecture} is a ConvNet",
            why="It works on patches and their tokens, which a ConvNet does not have",
            fix="give a ViT; recipes for ConvNets are seed_*, finetune_micro_convnet and finetune_effb0_impr_300e",
        )
    return encoder


def _make(config: ConvNetConfig) -> nn.Module:
    name = config.architecture
    if not timm.is_model(name):
        near = timm.list_models(f"{name[:5]}*") or ["efficientnet_b0"]
        raise UsageError(
            f"timm has no architecture {name!r}",
            where="encoder.architecture",
            why=did_you_mean(name, near),
            fix="encoder.architecture=NAME of timm",
        )
    dilation: dict[str, Any] = {} if config.output_stride == 32 else {"output_stride": config.output_stride}
    try:
        network: Any = timm.create_model(name, pretrained=False, num_classes=0, **dilation)
        blank = torch.zeros(1, 3, config.image_size, config.image_size)
        with torch.no_grad():
            seen = network.eval().forward_features(blank)
    except (TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"{name} cannot be built for {config.image_size} px and output stride {config.output_stride}",
            where="encoder",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="encoder.architecture=efficientnet_b0, encoder.output_stride=32",
        ) from None
    if seen.ndim != 4 or seen.shape[1] != network.num_features:
        raise UsageError(
            f"{name} is not a ConvNet",
            where="encoder.architecture",
            why="Its features are not a map of channels",
            fix="encoder.kind=vit for a plain ViT",
        )
    return network.train()


def _see_whole_batch(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, GlobalBatchNorm2d(child))
        else:
            _see_whole_batch(child)


class GlobalBatchNorm2d(GlobalBatchNorm1d):
    """`GlobalBatchNorm1d` on feature maps, in place of one of timm's batch norms and including its activation."""

    def __init__(self, replaced: nn.BatchNorm2d) -> None:
        """Take the settings and initial weights of `replaced`."""
        super().__init__(replaced.num_features, affine=replaced.affine)
        self.eps, self.momentum = replaced.eps, replaced.momentum
        self.load_state_dict(replaced.state_dict())
        self.act: nn.Module = getattr(replaced, "act", nn.Identity())

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise each channel; in training, by statistics over the images of all ranks."""
        if self.training and across.size() > 1:
            rows = super().forward(input.permute(0, 2, 3, 1).flatten(0, 2))
            normal = rows.view(input.shape[0], *input.shape[2:], input.shape[1]).permute(0, 3, 1, 2)
        else:
            normal = nn.BatchNorm1d.forward(self, input)
        return self.act(normal)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim == 4
