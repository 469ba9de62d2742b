"""Detects which project a weights file comes from, by its names and entries, and lists known facts of each."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from vitlet.nn.posembed import sincos_2d
from vitlet.weights.layouts import Layout
from vitlet.weights.reading import WeightsFile

UNKNOWN = "not known"
NON_COMMERCIAL = "CC-BY-NC-4.0"


@dataclass(frozen=True)
class Kind:
    """Known conventions of the project that a file comes from."""

    name: str
    heads: dict[int, int]
    """Number of heads by width, where it is unambiguous."""
    licence: str = UNKNOWN
    """Licence of the authors' released weights; others in the same format may differ."""
    imagenet_pixels: bool = True
    """Whether pixels are normalised by ImageNet's mean and deviation; if False, this is unknown."""


_COMMON_HEADS = {768: 12, 1024: 16, 1280: 16}
MAE_LITE = Kind("MAE-Lite", {192: 12, 384: 12, 768: 12})
MAE = Kind("MAE", _COMMON_HEADS, NON_COMMERCIAL)
MOCO_V3 = Kind("MoCo-v3", {384: 12, 768: 12}, NON_COMMERCIAL)
DINO = Kind("DINO", {384: 6, 768: 12}, "Apache-2.0")
DINO_V2 = Kind("DINOv2", {384: 6, 768: 12, 1024: 16}, "Apache-2.0")
HUGGING_FACE_MAE = Kind("Hugging Face ViTMAE", _COMMON_HEADS)
HUGGING_FACE = Kind("Hugging Face ViT", _COMMON_HEADS, imagenet_pixels=False)
RELATIVE = Kind("ViT with relative positions", _COMMON_HEADS, imagenet_pixels=False)
TIMM = Kind("ViT with timm's names", _COMMON_HEADS, imagenet_pixels=False)


def kind_of(file: WeightsFile, layout: Layout) -> Kind:
    """Detect the kind of file that `layout` was found in."""
    names = file.tensors.keys()
    prefix = layout.prefix.removeprefix("module.")
    table = layout.tensors.get("pos_embed")
    width = layout.tensors["patch_embed.proj.weight"].shape[0]
    decoder = next((t for name, t in file.tensors.items() if name.endswith("decoder_embed.weight")), None)
    by_authors = {"start_epoch", "best_top1"} & set(file.beside) or any(
        re.match(r"(module\.)?(tch_model|attn_adapter)\.", name) for name in names
    )
    own_decoder = decoder is not None and 2 * decoder.shape[0] == width
    if layout.hugging_face:
        return HUGGING_FACE_MAE if decoder is not None else HUGGING_FACE
    if prefix in ("model.", "base_encoder.") and (by_authors or own_decoder):
        return MAE_LITE
    if prefix == "base_encoder." or sincos_order(table) == "row-column":
        return MOCO_V3
    if layout.relative:
        return RELATIVE
    if any("LayerScale" in sentence for sentence in layout.rewritten) and any(n.endswith("mask_token") for n in names):
        return DINO_V2
    if file.wrapper in ("teacher", "student") or any(".last_layer." in f".{name}" for name in names):
        return DINO
    return MAE if decoder is not None or sincos_order(table) == "column-row" else TIMM


def sincos_order(table: Tensor | None) -> str:
    """Return the order of a sin-cos table, as in `EncoderConfig.sincos_order`; empty if it was learned."""
    if table is None or table.ndim != 3 or table.shape[-1] % 4:
        return ""
    grid = round((table.shape[1] - 1) ** 0.5)
    if grid * grid + 1 != table.shape[1]:
        return ""
    for order in ("column-row", "row-column"):
        if torch.allclose(table, sincos_2d(table.shape[-1], grid=grid, column_first=order == "column-row"), atol=1e-4):
            return order
    return ""
