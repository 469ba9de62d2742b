"""Detects which project a weights file comes from, by its names and entries, and lists known facts of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitlet.errors import UsageError
from vitlet.nn.posembed import sincos_2d
from vitlet.normalisation import Normalisation
from vitlet.text import plural, printable, quoted
from vitlet.weights.beside import Beside
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
    """Licence of every file of this kind: of the authors' released weights, where the form of a file proves them."""
    authors: tuple[str, str] | None = None
    """A project whose released weights have this form as others' have, and their licence."""
    is_project: bool = True
    """Whether the project is known, not only the form of the names. Then pixels are normalised by ImageNet's mean and
    deviation, and a network has biases of queries, keys and values, and a norm behind its blocks or its pooling."""


@dataclass(frozen=True)
class Named:
    """A plain ViT of timm's, which a file is said to hold."""

    architecture: str
    heads: int
    normalisation: Normalisation
    """timm's for it, which a file of a known project or a config next to it overrules."""
    tensors: Mapping[str, Tensor]
    """Its state dict; only names and shapes are used."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Patch size, width and depth."""
        patch = self.tensors["patch_embed.proj.weight"].shape
        return patch[2], patch[0], len({n.split(".")[1] for n in self.tensors if n.startswith("blocks.")})


_COMMON_HEADS = {768: 12, 1024: 16, 1280: 16}
MAE_LITE = Kind("MAE-Lite", {192: 12, 384: 12, 768: 12})
MAE = Kind("MAE", _COMMON_HEADS, NON_COMMERCIAL)
LIKE_MAE = Kind("ViT with MAE's positions or decoder", _COMMON_HEADS, authors=("MAE", NON_COMMERCIAL), is_project=False)
"""Trained by anybody: the authors' files have their tensors at the top of `model`."""
MOCO_V3 = Kind("MoCo-v3", {384: 12, 768: 12}, NON_COMMERCIAL)
LIKE_MOCO = Kind("ViT with MoCo-v3's positions", _COMMON_HEADS, authors=("MoCo-v3", NON_COMMERCIAL), is_project=False)
"""Trained by anybody: the authors' files have their tensors below `base_encoder`."""
DINO = Kind("DINO", {384: 6, 768: 12}, authors=("DINO", "Apache-2.0"))
DINO_V2 = Kind("DINOv2", {384: 6, 768: 12, 1024: 16}, authors=("DINOv2", "Apache-2.0"))
HUGGING_FACE_MAE = Kind("Hugging Face ViTMAE", _COMMON_HEADS)
HUGGING_FACE = Kind("Hugging Face ViT", _COMMON_HEADS, is_project=False)
RELATIVE = Kind("ViT with relative positions", _COMMON_HEADS, is_project=False)
TIMM = Kind("ViT with timm's names", _COMMON_HEADS, is_project=False)
OWN = Kind("checkpoint of vitlet", {}, is_project=False)
"""Of a run, whose own files tell its heads, its pixels and the licences behind it."""

_OWN_PREFIX = re.compile(r"model\.(\w+\.)*(\w+_)?encoder\.vit\.")


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
    if not file.wrapper and _OWN_PREFIX.fullmatch(layout.prefix):
        return OWN
    if prefix in ("model.", "base_encoder.") and (by_authors or own_decoder):
        return MAE_LITE
    order = sincos_order(table)
    if prefix == "base_encoder." or order == "row-column":
        return MOCO_V3 if prefix == "base_encoder." else LIKE_MOCO
    if layout.relative:
        return RELATIVE
    if any("LayerScale" in sentence for sentence in layout.rewritten) and any(n.endswith("mask_token") for n in names):
        return DINO_V2
    if file.wrapper in ("teacher", "student") or any(".last_layer." in f".{name}" for name in names):
        return DINO
    if decoder is not None or order == "column-row":
        return MAE if file.wrapper == "model" and not prefix else LIKE_MAE
    return TIMM


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


def num_heads(layout: Layout, kind: Kind, beside: Beside, path: Path, asked: int | Named | None) -> int:
    """Return the number of heads: by the tables of relative positions, a config, the kind of file, or as asked.

    Raises:
        UsageError: if it is not known and not asked for, or something else is asked for than is known.
    """
    tables = (t for name, t in layout.tensors.items() if name.endswith("relative_position_bias_table") and t.ndim == 2)
    width, columns = layout.tensors["patch_embed.proj.weight"].shape[0], next((t.shape[1] for t in tables), None)
    known = columns or beside.heads or kind.heads.get(width)
    wanted = asked.heads if isinstance(asked, Named) else asked
    if known is None or wanted in (None, known):
        return known or wanted or _ask_for_heads(width, kind, path)
    heads, fix = plural(known, "head"), f"--heads {known}, or none"
    if columns:
        why = f"Its tables of relative positions have a column for each of {heads}"
    elif beside.heads:
        why = f"config.json beside it says {heads}"
    else:
        why = f"{kind.name} of width {width} has {heads}"
        fix += f'; or, if that is wrong, {{"num_attention_heads": {wanted}}} in a config.json beside it'
    what = f"--heads {wanted} for {printable(path)}"
    if isinstance(asked, Named):
        what, fix = f"{printable(path)} is not {asked.architecture}, which has {wanted} heads", as_it_is(path)
    raise UsageError(what, why=why, fix=fix)


def as_it_is(path: Path) -> str:
    """Return the remedy for a file that is not what it is called."""
    return f"vitlet import {quoted(path)} --out DIR and give DIR"


def _ask_for_heads(width: int, kind: Kind, path: Path) -> int:
    known = {192: "timm's and DeiT's ViT-Tiny have 3, that of Wang et al. 2023 has 12", 384: "ViT-Small has 6 or 12"}
    raise UsageError(
        f"{printable(path)} ({kind.name}) does not show its number of heads",
        why=f"Tensors of width {width} fit any divisor, and each computes something else"
        + (f": {known[width]}" if width in known else ""),
        fix="--heads N" if width not in known else "--heads 3 or --heads 12" if width == 192 else "--heads 6 or 12",
    )
