"""MAE as computed by published code on a CPU, to measure ours against; takes the weights of a `vitlet` MAE.

Written from the paper (He et al. 2022, sections 3 and A.1) without its optimisations or ours: every patch is embedded
by a convolution and three quarters are discarded afterwards; the decoder puts all tokens back in order and predicts
all patches; attention is two matrix products and a softmax. `transformers_mae` is the same network in Hugging Face's
library.
"""

import re
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vitlet.methods.mae import MAE
from vitlet.nn.attention import Attention
from vitlet.nn.encoder import Encoder

if TYPE_CHECKING:
    from transformers import ViTMAEForPreTraining


class PlainAttention(nn.Module):
    """Multi-head self-attention, one operation at a time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Attend; the softmax's input is left in `logits` for distillation to read."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        self.logits = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        return self.proj((self.logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, tokens, width))


class PlainBlock(nn.Module):
    """Pre-norm block with timm's parameter names."""

    def __init__(self, width: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply attention and MLP, each added to its input."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainEncoder(nn.Module):
    """A plain ViT; every patch is embedded by a convolution, whether or not it is kept."""

    def __init__(self, encoder: Encoder) -> None:
        """Copy `encoder`, including its weights."""
        super().__init__()
        config = encoder.config
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.grid**2 + 1, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads=config.heads, hidden=hidden) for _ in encoder.blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6) if config.final_norm else nn.Identity()
        tensors = encoder.vit.state_dict()
        self.load_state_dict({k.replace("patch_embed.proj", "patch_embed"): v for k, v in tensors.items()})
        assert encoder.vit.pos_embed is not None
        self.pos_embed.requires_grad_(encoder.vit.pos_embed.requires_grad)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], keep: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Tokens of normalised images after the final norm, for all patches or for those to keep."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        if keep is not None:
            x = torch.gather(x, 1, keep[:, :, None].repeat(1, 1, x.shape[2]))
        start = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        x = torch.cat([start, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PlainMAE(nn.Module):
    """The paper's network and loss, without shortcuts."""

    def __init__(self, mae: MAE) -> None:
        """Copy `mae`, including its weights."""
        super().__init__()
        config, decoder_width = mae.encoder.config, mae.decoder_embed.out_features
        self.patch_size, self.kept, self.norm_pixels = config.patch_size, mae.kept, mae.norm_pixels
        self.encoder = PlainEncoder(mae.encoder)
        self.decoder_embed = nn.Linear(config.width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(torch.empty_like(mae.decoder_pos_embed), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            PlainBlock(decoder_width, heads=_decoder_heads(mae), hidden=4 * decoder_width) for _ in mae.decoder_blocks
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, 3 * config.patch_size**2)
        ours = {name: value for name, value in mae.state_dict().items() if not name.startswith("encoder.")}
        self.load_state_dict({f"encoder.{k}": v for k, v in self.encoder.state_dict().items()} | ours)

    def forward(self, images: Float[Tensor, "B 3 H W"], noise: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """The loss for normalised images; the patches with the smallest noise stay visible."""
        return self.loss(images, self.encoder(images, self.visible(noise)), noise)

    def visible(self, noise: Float[Tensor, "B N"]) -> Int[Tensor, "B K"]:
        """The visible patches."""
        return noise.argsort(dim=1)[:, : self.kept]

    def loss(
        self, images: Float[Tensor, "B 3 H W"], tokens: Float[Tensor, "B T D"], noise: Float[Tensor, "B N"]
    ) -> Float[Tensor, ""]:
        """The loss given the encoder's tokens of the visible patches."""
        restore = noise.argsort(dim=1).argsort(dim=1)
        mask = (restore >= self.kept).float()
        prediction = self._decode(tokens, restore)
        target = self._patches(images)
        if self.norm_pixels:
            mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        loss = ((prediction - target) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()

    def _decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(tokens)
        hidden = self.mask_token.repeat(x.shape[0], restore.shape[1] - self.kept, 1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        patches = torch.gather(patches, 1, restore[:, :, None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def _patches(self, images: Tensor) -> Tensor:
        size, grid = self.patch_size, images.shape[-1] // self.patch_size
        tiles = images.reshape(-1, 3, grid, size, grid, size)
        return torch.einsum("bcrhsw->brshwc", tiles).reshape(len(images), grid * grid, 3 * size * size)


def transformers_mae(mae: MAE) -> "ViTMAEForPreTraining":
    """Hugging Face's network with a copy of the weights of `mae`.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config, decoder_width = mae.encoder.config, mae.decoder_embed.out_features
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio),
            layer_norm_eps=1e-6,
            decoder_hidden_size=decoder_width,
            decoder_num_hidden_layers=len(mae.decoder_blocks),
            decoder_num_attention_heads=_decoder_heads(mae),
            decoder_intermediate_size=4 * decoder_width,
            # The half makes their rounding down give our count.
            mask_ratio=1 - (mae.kept + 0.5) / mae.encoder.num_patches,
            norm_pix_loss=mae.norm_pixels,
        )
    )
    network.load_state_dict(_transformers_names(mae.state_dict()))
    return network


def _decoder_heads(mae: MAE) -> int:
    return cast(Attention, cast(Block, mae.decoder_blocks[0]).attn).num_heads


_RENAMED = (
    (r"^encoder\.vit\.patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^encoder\.vit\.cls_token", "vit.embeddings.cls_token"),
    (r"^encoder\.vit\.pos_embed", "vit.embeddings.position_embeddings"),
    (r"^encoder\.vit\.blocks\.", "vit.layers."),
    (r"^encoder\.vit\.norm\.", "vit.layernorm."),
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(decoder_|mask_token)", r"decoder.\1"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.qkv\.", ".attention.{}_proj."),
)


def _transformers_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        parts = zip("qkv", value.chunk(3), strict=True) if "{}" in name else [("", value)]
        renamed |= {name.format(letter): part for letter, part in parts}
    return renamed
