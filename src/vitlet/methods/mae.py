"""Masked autoencoder: hide three quarters of the patches, predict their pixels.

Paper: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377; in the ViT-Tiny form of
Wang et al. 2023 (decoder of width 96, one block, three heads).

Differences, none of which changes the loss: hidden patches are dropped before the embedding; the decoder works in the
order (class, visible, hidden) with positions gathered to match, since attention does not depend on the order; pixels
are predicted for hidden patches only, since the others never enter the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.objective import Losses, Objective, Step, untraced
from vitlet.nn.attention import Attention
from vitlet.nn.encoder import Encoded, Encoder, run_block
from vitlet.nn.init import init_xavier, seeded
from vitlet.nn.masking import gather, num_kept, split_by_noise
from vitlet.nn.posembed import sincos_2d
from vitlet.rng import derive, uniform

_GREY = 0.5
"""Largest difference between channels, of 255, of a colourless pixel: values are integers up to rounding errors."""


@dataclass(frozen=True)
class Reconstruction:
    """MAE's output for a batch, in normalised pixels; L = P·P·3, M hidden patches."""

    keep: Int[Tensor, "B K"]
    removed: Int[Tensor, "B M"]
    visible: Float[Tensor, "B K L"]
    predicted: Float[Tensor, "B M L"]
    """As the loss sees it: standardised per patch if `norm_pixels` is on."""
    target: Float[Tensor, "B M L"]
    encoded: Encoded
    """Encoding of the visible patches, with the requested intermediates."""


class MAE(Objective):
    """An encoder that sees few patches, and a small decoder that predicts the rest."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.75,
        decoder_width: int = 96,
        decoder_depth: int = 1,
        decoder_heads: int = 3,
        norm_pixels: bool = True,
        read_after: int | None = None,
        seed: int = 0,
    ) -> None:
        """Add a new decoder to `encoder`.

        Args:
            encoder: Usually with fixed sin-cos positions.
            mask_ratio: Share of patches to hide.
            decoder_width: A multiple of 4 and of `decoder_heads`.
            decoder_depth: Number of blocks.
            decoder_heads: Heads of each block.
            norm_pixels: Standardise each target patch by its own mean and unbiased variance.
            read_after: Number of encoder blocks below the decoder, 1 … depth; None: all. Fewer if something else trains
                the blocks above (D²-MAE).
            seed: Seed of the decoder's initial weights.

        Raises:
            UsageError: if the ratio leaves no patch visible or none hidden, or if `read_after` is out of range.
        """
        super().__init__()
        self.encoder = encoder
        self.norm_pixels = norm_pixels
        self.kept = num_kept(encoder.num_patches, mask_ratio=mask_ratio)
        if not 0 < self.kept < encoder.num_patches:
            raise UsageError(
                f"objective.mask_ratio {mask_ratio} keeps {self.kept} of {encoder.num_patches} patches",
                why="At least one patch must stay visible and one must be hidden",
                fix="objective.mask_ratio=0.75",
            )
        config = encoder.config
        if read_after is not None and not 1 <= read_after <= config.depth:
            raise UsageError(
                f"the decoder cannot read after block {read_after} of an encoder with {config.depth}",
                fix=f"a read_after of 1 … {config.depth}",
            )
        self.read_after = read_after
        with seeded(derive(seed, "mae decoder")):
            self.decoder_embed = nn.Linear(config.width, decoder_width)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
            self.decoder_blocks = nn.ModuleList(
                Block(
                    decoder_width,
                    decoder_heads,
                    qkv_bias=True,
                    attn_layer=Attention,
                )
                for _ in range(decoder_depth)
            )
            self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
            self.decoder_pred = nn.Linear(decoder_width, config.patch_size**2 * 3)
            self._initialise()
        column_first = config.sincos_order == "column-row"
        self.decoder_pos_embed = nn.Parameter(
            sincos_2d(decoder_width, grid=config.grid, column_first=column_first), requires_grad=False
        )

    def _initialise(self) -> None:
        """Xavier-uniform linears, mask token N(0, 0.02²); the encoder keeps its own initial weights."""
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(init_xavier)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Mean squared error on hidden patches, averaged over pixels, patches and images."""
        made = self.reconstruct(self.encoder.patchify(batch.images), self.noise(batch, step))
        return Losses(total=F.mse_loss(made.predicted, made.target))

    @untraced
    def noise(self, batch: Batch, step: Step) -> Float[Tensor, "B N"]:
        """Random values that decide which patches of each image are hidden in this step."""
        noise = torch.from_numpy(uniform(step.key("mask"), batch.slots.numpy(), self.encoder.num_patches))
        return noise.to(batch.images.device)

    def reconstruct(
        self, patches: Shaped[Tensor, "B N L"], noise: Float[Tensor, "B N"], trace: Sequence[str] = ()
    ) -> Reconstruction:
        """Hide some of the patches of `Encoder.patchify` by `noise`, encode the others and predict the hidden ones.

        `trace` is as for `Encoder.encode`.
        """
        keep, removed = split_by_noise(noise, kept=self.kept)
        visible = self.encoder.normalise(gather(patches, keep))
        below = () if self.read_after is None else (f"block.{self.read_after - 1}.output",)
        encoded = self.encoder.encode(self.encoder.project(visible), keep, (*trace, *below))
        tokens = self.encoder.vit.norm(encoded.traced[below[0]]) if below else encoded.tokens
        predicted = self._decode(tokens, keep, removed)
        target = self.encoder.normalise(gather(patches, removed))
        return Reconstruction(keep, removed, visible, predicted, self._standardise(target), encoded)

    def picture(
        self, images: UInt8[Tensor, "B 3 H W"], noise: Float[Tensor, "B N"]
    ) -> dict[str, UInt8[Tensor, "B H W 3"]]:
        """`input`, `masked` (hidden patches grey), `reconstruction` (visible patches unchanged, hidden ones predicted).

        Standardised predictions get the mean and deviation of the visible patches, weighted by closeness in the grid:
        nothing of the hidden pixels leaks into the picture. If no visible pixel has a colour, predictions get none
        either: channels are normalised differently, so black is a tint to the network, which an overestimated deviation
        would amplify.
        """
        encoder = self.encoder
        patches = encoder.patchify(images)
        made = self.reconstruct(patches, noise)
        pixels = encoder.normalise(patches)
        rows = torch.arange(len(images), device=images.device)[:, None]
        guessed = made.predicted.float()
        if self.norm_pixels:
            near = self._closeness(made.removed, made.keep)
            variance, mean = torch.var_mean(made.visible, dim=-1, keepdim=True)
            guessed = guessed * (near @ variance.sqrt()) + near @ mean
        masked, whole = pixels.clone(), pixels.clone()
        masked[rows, made.removed] = 0.0  # the mean colour
        whole[rows, made.removed] = guessed
        reconstruction = encoder.to_images(whole)
        grey = reconstruction.float().mean(dim=-1, keepdim=True).round().to(torch.uint8).expand_as(reconstruction)
        visible = encoder.values(made.visible).unflatten(-1, (-1, 3))
        coloured = (visible.amax(dim=-1) - visible.amin(dim=-1) > _GREY).flatten(1).any(dim=1)
        return {
            "input": encoder.to_images(pixels),
            "masked": encoder.to_images(masked),
            "reconstruction": torch.where(coloured[:, None, None, None], reconstruction, grey),
        }

    def _closeness(self, removed: Int[Tensor, "B M"], keep: Int[Tensor, "B K"]) -> Float[Tensor, "B M K"]:
        grid = self.encoder.config.grid
        place = torch.arange(grid * grid, device=keep.device)
        at = torch.stack([place // grid, place % grid], dim=1).float()
        return (-torch.cdist(at[removed], at[keep])).softmax(dim=-1)

    def _decode(
        self, tokens: Float[Tensor, "B T D"], keep: Int[Tensor, "B K"], removed: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M L"]:
        batch = tokens.shape[0]
        known = self.decoder_embed(tokens)
        hidden = self.mask_token.expand(batch, removed.shape[1], -1)
        places = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1, removed + 1], dim=1)
        x = torch.cat([known, hidden.to(known.dtype)], dim=1) + self.decoder_pos_embed[0][places]
        for block in self.decoder_blocks:
            assert isinstance(block, Block)
            x = run_block(block, x)
        return self.decoder_pred(self.decoder_norm(x[:, 1 + keep.shape[1] :]))

    def _standardise(self, target: Float[Tensor, "B M L"]) -> Float[Tensor, "B M L"]:
        if not self.norm_pixels:
            return target
        # A LayerNorm is one pass instead of four, but uses the biased variance, which is (L−1)/L of the unbiased one.
        length = target.shape[-1]
        share = (length - 1) / length
        weight = target.new_full((length,), share**0.5)
        return F.layer_norm(target, (length,), weight, eps=1e-6 * share)
