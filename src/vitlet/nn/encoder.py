"""The encoder: timm's plain ViT, held rather than subclassed, split at the one seam that every method needs.

`embed(images) → patches` and `encode(patches, keep, trace) → Encoded`. MAE passes `encode` a subset of the patches,
SimMIM replaces some of them first, fine-tuning passes all; none of them needs a branch in here. Intermediates are
returned by name on request, so no forward hooks are needed. Images of other sizes are encoded with positions resized
to their grid. Saved tensors keep timm's keys.

Paper: Dosovitskiy et al. 2021 (ViT), in the ViT-Tiny form of Touvron et al. 2021 with the 12 heads of Wang et al. 2023.

Differences from timm's own forward pass: the patch embedding is a matrix product on patches laid out channel-last
(equal to the convolution), so that patches can be dropped before it; stochastic depth takes its draws as an argument.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from vitlet.choices import Pool
from vitlet.errors import UsageError
from vitlet.nn.attention import Attention
from vitlet.nn.init import init_moco, init_timm, init_xavier, seeded, xavier_patch_embedding
from vitlet.nn.masking import gather
from vitlet.nn.pixels import scale_and_shift
from vitlet.nn.posembed import resize, sincos_2d
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive, uniform
from vitlet.text import did_you_mean

_LAYER_SCALE = 0.1
POINTS = ("norm1", "attention_logits", "attention", "norm2", "mlp", "output")
"""Traceable points inside a block, in order of computation: `block.<0-based index>.<point>`."""


@dataclass(frozen=True)
class Encoded:
    """The output of an encoder for a batch; token 0 is the class token."""

    tokens: Float[Tensor, "B T D"]
    traced: dict[str, Tensor] = field(default_factory=dict)

    @property
    def class_token(self) -> Float[Tensor, "B D"]:
        """The token that stands for the image."""
        return self.tokens[:, 0]

    @property
    def patches(self) -> Float[Tensor, "B N D"]:
        """The patch tokens alone."""
        return self.tokens[:, 1:]

    def pooled(self, pool: Pool) -> Float[Tensor, "B D"]:
        """One vector per image: the mean of the patch tokens, or the class token."""
        return self.patches.mean(dim=1) if pool == "mean" else self.class_token


class Encoder(nn.Module):
    """A plain ViT without a head, together with the normalisation of its pixels."""

    def __init__(self, config: EncoderConfig, *, normalisation: Normalisation = IMAGENET, seed: int = 0) -> None:
        """Initialise an encoder randomly; the same seed gives the same weights on every machine.

        Args:
            config: Size, depth, heads, positions.
            normalisation: Of the pixels that it will see.
            seed: Seed of the initial weights.
        """
        super().__init__()
        self.config = config
        self.normalisation = normalisation
        with seeded(derive(seed, "encoder")):
            self.vit = VisionTransformer(
                img_size=config.image_size,
                patch_size=config.patch_size,
                embed_dim=config.width,
                depth=config.depth,
                num_heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                num_classes=0,
                global_pool="token",
                final_norm=config.final_norm,
                init_values=_LAYER_SCALE if config.relative_position else None,
                attn_layer=Attention,
            )
            if config.relative_position:
                for block in self.blocks:  # timm takes a class and no arguments for it
                    block.attn = Attention(config.width, num_heads=config.heads, relative_grid=config.grid)
            self._initialise()
        # Not in the state dict: they belong to the preprocessing and are saved beside the weights.
        scale, shift = scale_and_shift(normalisation)
        self.register_buffer("_scale", scale.repeat(config.patch_size**2), persistent=False)
        self.register_buffer("_shift", shift.repeat(config.patch_size**2), persistent=False)

    def _initialise(self) -> None:
        config, vit = self.config, self.vit
        vit.apply({"timm": init_timm, "xavier": init_xavier, "moco": init_moco}[config.init])
        convolution = cast(nn.Conv2d, vit.patch_embed.proj)
        if config.init != "timm":
            xavier_patch_embedding(convolution)
        if config.init == "moco":
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        draw = trunc_normal_ if config.init == "timm" else nn.init.normal_
        draw(vit.cls_token, std=1e-6 if config.init == "moco" else 0.02)
        if config.position == "sincos":
            table = sincos_2d(config.width, grid=config.grid, column_first=config.sincos_order == "column-row")
            vit.pos_embed.data.copy_(table)
            vit.pos_embed.requires_grad_(False)
        else:
            trunc_normal_(vit.pos_embed, std=0.02)
        if config.relative_position:
            for i, block in enumerate(self.blocks):
                for layer in (cast(Attention, block.attn).proj, cast(Mlp, block.mlp).fc2):
                    layer.weight.data.div_((2 * (i + 1)) ** 0.5)

    @property
    def num_patches(self) -> int:
        """N, the patches of an image of `config.image_size`."""
        return self.config.grid**2

    @property
    def width(self) -> int:
        """D, of a token and of what stands for an image."""
        return self.config.width

    @property
    def network(self) -> VisionTransformer:
        """The module of timm, whose tensor names are those of files."""
        return self.vit

    @property
    def blocks(self) -> list[Block]:
        """The transformer blocks, lowest first."""
        return cast(list[Block], list(self.vit.blocks))

    def normalised_patches(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N L"]:
        """`normalise(patchify(images))`."""
        return self.normalise(self.patchify(images))

    def patchify(self, images: Shaped[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B N L"]:
        """Split into patches in row-major order, channels last within a patch; L = P·P·3. Values remain 0 … 255.

        Callers that need only some of the patches select them at one byte per value, then normalise those.

        Raises:
            UsageError: for images that are not square or do not divide into patches.
        """
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height != width or height % patch:
            raise UsageError(
                f"images of {width}×{height} pixels for an encoder of {patch}×{patch} patches",
                why="They must be square, with a side that is a multiple of the patch",
                fix=f"views of {max(patch, height // patch * patch)} pixels (data.views.N.size)",
            )
        grid = height // patch
        tiles = images.view(-1, 3, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
        return tiles.reshape(images.shape[0], grid * grid, patch * patch * 3)

    def normalise(self, patches: Shaped[Tensor, "B K L"]) -> Float[Tensor, "B K L"]:
        """Normalise values 0 … 255 of any patches by the mean and standard deviation of their channels."""
        shift, scale = cast(Tensor, self._shift), cast(Tensor, self._scale)
        return torch.addcmul(shift, patches.to(shift.dtype), scale)

    def values(self, patches: Float[Tensor, "B K L"]) -> Float[Tensor, "B K L"]:
        """Undo `normalise`: values in 0 … 255 again."""
        return (patches - cast(Tensor, self._shift)) / cast(Tensor, self._scale)

    def to_images(self, patches: Float[Tensor, "B N L"]) -> UInt8[Tensor, "B H W 3"]:
        """The inverse of `normalised_patches`, rounded and clipped, channels last."""
        grid, patch = math.isqrt(patches.shape[1]), self.config.patch_size
        tiles = self.values(patches).round().clamp(0, 255).to(torch.uint8).view(-1, grid, grid, patch, patch, 3)
        return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, grid * patch, grid * patch, 3)

    def project(self, patches: Float[Tensor, "B K L"]) -> Float[Tensor, "B K D"]:
        """Embed any subset of the normalised patches, without positions."""
        convolution = cast(nn.Conv2d, self.vit.patch_embed.proj)
        return F.linear(patches, convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)

    def embed(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Embed all patches of the images, without positions."""
        return self.project(self.normalised_patches(images))

    def encode(
        self,
        patches: Float[Tensor, "B K D"],
        keep: Int[Tensor, "B K"] | None = None,
        trace: Sequence[str] = (),
        *,
        survival: Float[Tensor, "P B"] | None = None,
        until: int | None = None,
    ) -> Encoded:
        """Add positions and class token, run the blocks and the final norm.

        Args:
            patches: Embedded patches.
            keep: Position of each patch in the grid of `config.image_size`; None: all positions in order, in a grid
                sized by the number of patches, to which the position embeddings are resized.
            trace: Names of intermediates to return: `block.<i>.<point>` with a point of `POINTS`, or `embedded`.
            survival: Factors for the residual branches (two per block) for stochastic depth, from `survival`.
            until: Stop at this block after computing its attention logits alone; `tokens` are then the block's input.

        Raises:
            UsageError: for an unknown name, or a grid other than that of a table of relative positions.
        """
        if self.config.relative_position and keep is None and patches.shape[1] != self.num_patches:
            raise UsageError(
                f"{patches.shape[1]} patches for relative positions of {self.num_patches}",
                why="A bias is learned for each offset in one grid; only absolute positions are resized",
                fix="views of one size, or encoder.relative_position=false",
            )
        note = Trace(trace, depth=self.config.depth)
        position = self.vit.pos_embed
        assert position is not None
        if keep is None:
            at = resize(position, grid=math.isqrt(patches.shape[1]))[:, 1:]
        else:
            at = gather(position[:, 1:].expand(patches.shape[0], -1, -1), keep)
        start = (cast(Tensor, self.vit.cls_token) + position[:, :1]).expand(patches.shape[0], -1, -1)
        x = note("embedded", torch.cat([start, patches + at], dim=1))
        places = None if keep is None else torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], dim=1)
        for i, block in enumerate(self.blocks):
            name = f"block.{i}"
            if i == until:
                normed = note(f"{name}.norm1", block.norm1(x))
                note(f"{name}.attention_logits", cast(Attention, block.attn).logits(normed, places))
                return Encoded(tokens=x, traced=note.found)
            factors = None if survival is None else survival[2 * i : 2 * i + 2, :, None, None]
            x = run_block(block, x, note=note, name=name, survival=factors, places=places)
        return Encoded(tokens=self.vit.norm(x), traced=note.found)

    def survival(self, *, key: int, slots: Int[Tensor, "B"]) -> Float[Tensor, "P B"] | None:
        """Factors of stochastic depth (Huang et al. 2016), for `encode`, on the encoder's device; None at a rate of 0.

        0 for a dropped branch, 1/(1−p) for one that stays; P = 2·depth. The rate p grows linearly from 0 at the first
        block to `drop_path` at the last. A draw depends on the key and on the sample's slot in the global batch, not on
        how the batch is split.

        Args:
            key: Key of this step's draws.
            slots: Slots of the samples in the global batch.
        """
        rate, depth = self.config.drop_path, self.config.depth
        if rate == 0:
            return None
        keep = 1 - torch.linspace(0, rate, depth).repeat_interleave(2)
        draws = torch.from_numpy(uniform(key, slots.numpy(), 2 * depth)).T
        return ((draws < keep[:, None]) / keep[:, None]).to(cast(Tensor, self._scale).device)

    def pooled(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"], pool: Pool) -> Float[Tensor, "B D"]:
        """One feature vector per image."""
        return self.encode(self.embed(images)).pooled(pool)

    def forward(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T D"]:
        """`encode(embed(images)).tokens`."""
        return self.encode(self.embed(images)).tokens


class Trace:
    """Collects the requested intermediates; passing a value through it returns the value."""

    def __init__(self, names: Sequence[str] = (), *, depth: int = 0) -> None:
        """Raises UsageError for a name that an encoder of this depth lacks."""
        known = ["embedded", *(f"block.{i}.{p}" for i in range(depth) for p in POINTS)] if names else []
        for name in names:
            if name not in known:
                raise UsageError(
                    f"no intermediate {name!r} in this encoder",
                    why=did_you_mean(name, known),
                    fix=f"embedded, or block.I.POINT with I below {depth}",
                )
        self.names = frozenset(names)
        self.found: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Keep `value` if its name was requested."""
        if name in self.names:
            self.found[name] = value
        return value


def run_block(
    block: Block,
    x: Float[Tensor, "B T D"],
    *,
    note: Trace | None = None,
    name: str = "",
    survival: Float[Tensor, "2 B 1 1"] | None = None,
    places: Int[Tensor, "B T"] | None = None,
    mix: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "B T D"]:
    """Run one of timm's pre-norm blocks with `Attention` inside, tracing its intermediates under `name`.

    `mix` is called in place of the block's attention, for tokens that do not all attend to each other.
    """
    note = note or Trace()
    attention = cast(Attention, block.attn)
    normed = note(f"{name}.norm1", block.norm1(x))
    if f"{name}.attention_logits" in note.names:
        mixed, logits = attention.forward_with_logits(normed, places)
        note(f"{name}.attention_logits", logits)
    else:
        mixed = attention(normed, places) if mix is None else mix(normed)
    mixed = note(f"{name}.attention", block.ls1(mixed))
    x = x + (mixed if survival is None else mixed * survival[0])
    hidden = note(f"{name}.mlp", block.ls2(block.mlp(note(f"{name}.norm2", block.norm2(x)))))
    return note(f"{name}.output", x + (hidden if survival is None else hidden * survival[1]))
