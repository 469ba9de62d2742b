"""Import of ViTs trained elsewhere: complete or, on request, partial, and never silently so.

Tensors show width, depth, patch size, grid and MLP ratio, but neither the number of heads nor the pixel normalisation.
Those follow from the kind of file or a `config.json` next to it, or the user must give them. Position embeddings are
kept unchanged (MAE's and MoCo-v3's sin-cos tables differ) and resized only on request.

Differences: LayerNorm's ε is 1e-6, as in timm; Hugging Face's default is 1e-12, which trained weights do not notice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.attention import relative_offsets
from vitlet.nn.encoder import Encoder, Pixels
from vitlet.nn.heads import Classifier
from vitlet.nn.posembed import resize
from vitlet.recipe import EncoderConfig
from vitlet.text import plural, printable
from vitlet.weights.beside import Beside, read_beside
from vitlet.weights.kinds import NON_COMMERCIAL, UNKNOWN, Kind, kind_of, sincos_order
from vitlet.weights.layouts import Layout, arrange
from vitlet.weights.reading import WeightsFile, read_weights
from vitlet.weights.tensors import require_same

IMAGENET: tuple[Pixels, Pixels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Pixels, Pixels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Imported:
    """An imported encoder, with a record of how it was read."""

    encoder: Encoder
    classifier: Classifier | None
    """Its classes are numbered, since weights files do not name them."""
    kind: Kind
    layout: Layout
    missing: tuple[str, ...]
    """Tensors (timm's names) that the file lacks: randomly initialised, or ones for a LayerScale."""
    notes: tuple[str, ...]
    """Sentences to show to the user."""
    facts: dict[str, Any]
    """Provenance for the model folder."""


def import_file(
    path: Path,
    *,
    heads: int | None = None,
    image_size: int | None = None,
    allow_partial: bool = False,
    prefix: str | None = None,
    pixels: tuple[Pixels, Pixels] | None = None,
    entry: str | None = None,
) -> Imported:
    """Read an encoder from another library's weights file.

    Args:
        path: `.safetensors`, `.pth`, `.pth.tar`, `.pt` or `.bin`; the format is detected from the content.
        heads: Number of heads, needed where neither the kind of file nor a config next to it gives one.
        image_size: Resize the position embedding to images of this side, in pixels; None keeps it.
        allow_partial: Accept an incomplete encoder, or one that computes something else than the original.
        prefix: Which network, if the file has several.
        pixels: Mean and standard deviation of its pixels; None takes those of a config next to the file, or ImageNet's.
        entry: Which entry, if the file has several; None takes the trained weights.

    Raises:
        CheckpointError: if the file is unsafe, damaged, not a plain ViT, or incomplete.
        UsageError: if the user must specify something.
    """
    file = read_weights(path, entry=entry)
    layout = arrange(file.tensors, prefix=prefix)
    kind, beside = kind_of(file, layout), read_beside(path)
    if beside.activation != "gelu":
        raise CheckpointError(
            f"{printable(path)} has the activation {printable(beside.activation)}",
            why="A plain ViT has the exact GELU, and the encoder would compute something else",
            fix="give a model with exact GELU",
        )
    shape = _shape(layout, path)
    width = shape["width"]
    count = _heads_of_table(layout, heads, path) or heads or beside.heads or kind.heads.get(width)
    count = count or _ask_for_heads(width, kind, path)
    if width % count:
        raise UsageError(f"width {width} cannot be split into {count} heads", fix="--heads N with N a divisor of it")
    _check_relative(file, layout, shape, path)
    values = {**shape, "heads": count, **_positions(layout, shape["image_size"] // shape["patch_size"])}
    config = EncoderConfig.from_json(values, where=printable(path))
    mean, std = pixels or beside.pixels or IMAGENET
    encoder = Encoder(config, mean=mean, std=std)
    missing = _fill(encoder, layout, path)
    _require_whole(layout, missing, path, allow_partial=allow_partial)
    classifier = _classifier(layout, width)
    if image_size is not None:
        encoder = resized(encoder, image_size)
    notes = _notes(kind, file, beside, asked_pixels=pixels is not None)
    facts = _facts(path, file, layout, kind, missing, count)
    return Imported(encoder, classifier, kind, layout, missing, notes, facts)


def _positions(layout: Layout, grid: int) -> dict[str, Any]:
    order = sincos_order(layout.tensors["pos_embed"]) if grid > 1 else ""
    found: dict[str, Any] = {"position": "sincos", "sincos_order": order} if order else {}
    return found | {"final_norm": "norm.weight" in layout.tensors, "relative_position": layout.relative}


def _shape(layout: Layout, path: Path) -> dict[str, Any]:
    """Infer the network's shape from its tensors."""
    tensors, depth = layout.tensors, layout.depth
    patch, position = tensors["patch_embed.proj.weight"], tensors.get("pos_embed")
    first = next((t for name, t in tensors.items() if name.endswith(".mlp.fc1.weight") and t.ndim == 2), None)
    reason = ""
    if patch.ndim != 4 or patch.shape[1] != 3 or patch.shape[2] != patch.shape[3]:
        reason = f"its patch embedding has the shape {tuple(patch.shape)}; square patches of three colours are known"
    elif "cls_token" not in tensors:
        reason = "it has no class token"
    elif position is None or first is None or depth == 0:
        reason = "position embedding or blocks are missing, which only it could bring"
    elif (
        position.ndim != 3
        or position.shape[1] < 2
        or round((position.shape[1] - 1) ** 0.5) ** 2 + 1 != position.shape[1]
    ):
        reason = f"its position embedding has the shape {tuple(position.shape)}, which is no class token and a square"
    if reason or first is None or position is None:
        lost = sorted(set(layout.lost.values()))
        also = f"; it also has {', '.join(lost)}" if lost else ""
        raise CheckpointError(
            f"{printable(path)} is not a plain ViT", why=f"{reason}{also}", fix="give a file of a plain ViT"
        )
    side, width = patch.shape[2], patch.shape[0]
    grid = round((position.shape[1] - 1) ** 0.5)
    ratio = first.shape[0] / width
    return {"image_size": grid * side, "patch_size": side, "width": width, "depth": depth, "mlp_ratio": ratio}


def _ask_for_heads(width: int, kind: Kind, path: Path) -> int:
    known = {192: "timm's and DeiT's ViT-Tiny have 3, that of Wang et al. 2023 has 12", 384: "ViT-Small has 6 or 12"}
    raise UsageError(
        f"{printable(path)} ({kind.name}) does not tell its number of heads",
        why=f"Tensors of width {width} fit any divisor, and each computes something else"
        + (f": {known[width]}" if width in known else ""),
        fix="--heads N" if width not in known else "--heads 3 or --heads 12" if width == 192 else "--heads 6 or 12",
    )


def _heads_of_table(layout: Layout, asked: int | None, path: Path) -> int | None:
    """Return the number of columns, one per head, of the relative-position tables; None without tables."""
    tables = (t for name, t in layout.tensors.items() if name.endswith("relative_position_bias_table") and t.ndim == 2)
    columns = next((table.shape[1] for table in tables), None)
    if columns and asked not in (None, columns):
        raise UsageError(
            f"--heads {asked} for {printable(path)}",
            why=f"Its tables of relative positions have a column for each of {plural(columns, 'head')}",
            fix=f"--heads {columns}, or none",
        )
    return columns


def _check_relative(file: WeightsFile, layout: Layout, shape: dict[str, Any], path: Path) -> None:
    """Check that relative offsets are numbered as ours are."""
    if not layout.relative:
        return
    ours = relative_offsets(shape["image_size"] // shape["patch_size"])
    for name, tensor in file.tensors.items():
        if name.endswith("relative_position_index") and not torch.equal(tensor.long(), ours):
            raise CheckpointError(
                f"{printable(path)} numbers relative positions in another way",
                where=printable(name),
                why="Not BEiT's",
                fix="give a file of BEiT's code or of timm",
            )


def _fill(encoder: Encoder, layout: Layout, path: Path) -> tuple[str, ...]:
    """Load the tensors into the encoder and return the names of missing ones."""
    wanted = cast(dict[str, Tensor], dict(encoder.vit.state_dict()))
    for name, tensor in layout.tensors.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{printable(path)} is not a plain ViT",
                where=printable(name),
                why=f"its shape is {tuple(tensor.shape)}; with these other tensors it should be "
                f"{tuple(wanted[name].shape)}",
                fix="give a file of a plain ViT",
            )
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{printable(path)} has NaN or infinite weights",
                where=printable(name),
                fix="give a checkpoint from before the training diverged",
            )
    for name in sorted(layout.tensors.keys() - wanted.keys()):
        layout.lost[layout.prefix + name] = "not part of a plain ViT"
    encoder.vit.load_state_dict({k: v for k, v in layout.tensors.items() if k in wanted}, strict=False)
    return (*(name for name in wanted if name not in layout.tensors), *layout.unscaled)


def _classifier(layout: Layout, width: int) -> Classifier | None:
    if not layout.classifier:
        return None
    pool = "mean" if "fc_norm.weight" in layout.classifier else "class"
    num_classes = len(layout.classifier["head.weight"])
    classifier = Classifier(width, num_classes=num_classes, pool=pool, seed=0)
    require_same(layout.classifier, classifier.state_dict(), what="the classifier does not fit its encoder")
    classifier.load_state_dict(layout.classifier)
    return classifier


def _require_whole(layout: Layout, missing: tuple[str, ...], path: Path, *, allow_partial: bool) -> None:
    if allow_partial or not (missing or layout.lost):
        return
    parts = []
    if missing:
        parts.append(f"{plural(len(missing), 'tensor')} missing: {', '.join(missing[:4])}{' …' * (len(missing) > 4)}")
    for reason in sorted(set(layout.lost.values())):
        names = [printable(name) for name, why in layout.lost.items() if why == reason]
        parts.append(f"it has {reason} ({names[0]}{' …' * (len(names) > 1)})")
    raise CheckpointError(
        f"{printable(path)} is not the whole encoder",
        why="; ".join(parts).capitalize() if missing else "; ".join(parts),
        fix="the whole file; or --allow-partial, which leaves missing tensors random and ignores what has no place",
    )


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """Return the encoder for another image size, its position embedding resized bicubically.

    Raises:
        UsageError: if the patches do not tile such an image, or positions are relative.
    """
    if encoder.config.relative_position:
        raise UsageError("relative positions cannot be resized", fix="leave --image-size out")
    config = encoder.config.changed(image_size=image_size)
    other = Encoder(config, mean=encoder.mean, std=encoder.std)
    tensors = cast(dict[str, Tensor], dict(encoder.vit.state_dict()))
    other.vit.load_state_dict(tensors | {"pos_embed": resize(tensors["pos_embed"], grid=config.grid)})
    return other


def _notes(kind: Kind, file: WeightsFile, beside: Beside, *, asked_pixels: bool) -> tuple[str, ...]:
    notes = [*beside.remarks]
    for other in map(printable, file.siblings):
        average = ", an average over training by its name" if "ema" in other.lower() else ""
        notes.append(
            f"the weights under {printable(file.wrapper)} were taken; the same network stands under {other} too"
            f"{average}: --entry {other} takes that"
        )
    if kind.licence == NON_COMMERCIAL:
        notes.append(
            f"LICENCE: the {kind.name} weights that facebookresearch released are {NON_COMMERCIAL}: not for "
            "commercial use, and neither is what is trained from them"
        )
    elif kind.licence == UNKNOWN:
        notes.append("the file does not say under which licence it may be used; ask where it came from")
    if not asked_pixels and beside.pixels is None and (beside.remarks or not kind.imagenet_pixels):
        notes.append(
            "the file does not say how its pixels were normalised; ImageNet's mean and deviation are assumed. Give "
            "--pixels half for weights that were trained on -1 … 1 (many of timm's and Google's)"
        )
    return tuple(notes)


def _facts(
    path: Path, file: WeightsFile, layout: Layout, kind: Kind, missing: tuple[str, ...], heads: int
) -> dict[str, Any]:
    dropped: dict[str, int] = {}
    for reason in layout.dropped.values():
        dropped[reason] = dropped.get(reason, 0) + 1
    return {
        "source": {
            "file": printable(path.name),
            "sha256": file.sha256,
            "kind": kind.name,
            "entry": printable(file.wrapper),
            "prefix": printable(layout.prefix),
        },
        "licence": kind.licence,
        "heads": heads,
        "rewritten": layout.rewritten,
        "dropped": dropped,
        "lost": {printable(name): reason for name, reason in layout.lost.items()},
        "missing": list(missing),
    }
