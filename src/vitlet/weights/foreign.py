"""Import of ViTs trained elsewhere: complete or, on request, partial, and never silently so.

Tensors show width, depth, patch size, grid and MLP ratio, but neither the number of heads nor the pixel normalisation.
Those follow from the kind of file, a `config.json` next to it or the network that it is said to hold, or the user must
give them; a number of heads that contradicts what is known is refused. Position embeddings are kept unchanged (MAE's
and MoCo-v3's sin-cos tables differ) and resized only on request.

Differences: LayerNorm's ε is 1e-6, as in timm; Hugging Face's default is 1e-12. With trained weights the difference is
negligible.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.attention import relative_offsets
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.nn.posembed import resize
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.text import plural, printable
from vitlet.weights.beside import Beside, read_beside
from vitlet.weights.kinds import NON_COMMERCIAL, OWN, UNKNOWN, Kind, Named, as_it_is, kind_of, num_heads, sincos_order
from vitlet.weights.layouts import STRANGER, Layout, arrange, fill_biases
from vitlet.weights.reading import WeightsFile, read_weights
from vitlet.weights.tensors import require_same


@dataclass(frozen=True)
class Imported:
    """An imported encoder, with a record of how it was read."""

    encoder: Encoder
    classifier: Classifier | None
    """Its classes are numbered, since weights files do not name them."""
    kind: Kind
    layout: Layout
    missing: tuple[str, ...]
    """Tensors (timm's names) that the file lacks: untrained, or ones for a LayerScale."""
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
    normalisation: Normalisation | None = None,
    entry: str | None = None,
    named: Named | None = None,
) -> Imported:
    """Read an encoder from another library's weights file.

    Args:
        path: `.safetensors`, `.pth`, `.pth.tar`, `.pt` or `.bin`; the format is detected from the content.
        heads: Number of heads, needed where neither the kind of file nor a config next to it gives one.
        image_size: Resize the position embedding to images of this side, in pixels; None keeps it.
        allow_partial: Accept an incomplete encoder, or one that computes something else than the original.
        prefix: Which network, if the file has several.
        normalisation: Of its pixels; None takes that of a config next to the file, that of `named` if the project is
            not known, or ImageNet's.
        entry: Which entry, if the file has several; None takes the trained weights.
        named: The network that the file must hold.

    Raises:
        CheckpointError: if the file is unsafe, damaged, not a plain ViT, incomplete, or not `named`.
        UsageError: if the user must specify something, or says something else than is known.
    """
    file, beside = read_weights(path, entry=entry), read_beside(path)
    layout = arrange(file.tensors, prefix=prefix, pool=beside.pool)
    kind = kind_of(file, layout)
    if beside.activation != "gelu":
        raise CheckpointError(
            f"{printable(path)} has the activation {printable(beside.activation)}",
            why="A plain ViT has the exact GELU, and the encoder would compute something else",
            fix="give a model with exact GELU",
        )
    shape = _shape(layout, beside, path)
    if named is not None:
        _require_named(layout, named, path)
    width = shape["width"]
    count = num_heads(layout, kind, beside, path, heads if named is None else named)
    if width % count:
        raise UsageError(f"width {width} cannot be split into {count} heads", fix="--heads N with N a divisor of it")
    _check_relative(file, layout, shape, path)
    if not kind.is_project:
        fill_biases(layout)
    values = {**shape, "heads": count, **_positions(layout, kind, shape["image_size"] // shape["patch_size"])}
    config = EncoderConfig.from_json(values, where=printable(path))
    usual = IMAGENET if named is None or kind.is_project else named.normalisation
    encoder = Encoder(config, normalisation=normalisation or beside.normalisation or usual)
    missing = _fill(encoder, layout, path)
    _require_whole(layout, missing, path, allow_partial=allow_partial)
    classifier = _classifier(layout, width)
    if image_size is not None:
        encoder = resized(encoder, image_size)
    notes = _notes(kind, file, beside, classifier, is_normalisation_asked=normalisation is not None)
    facts = _facts(path, file, layout, kind, missing, count)
    return Imported(encoder, classifier, kind, layout, missing, notes, facts)


def _positions(layout: Layout, kind: Kind, grid: int) -> dict[str, Any]:
    order = sincos_order(layout.tensors["pos_embed"]) if grid > 1 else ""
    found: dict[str, Any] = {"position": "sincos", "sincos_order": order} if order else {}
    has_norm = any(name.startswith("norm.") for name in layout.tensors)
    lacks_norm = kind.is_project and "fc_norm.weight" not in layout.found
    return found | {"final_norm": has_norm or lacks_norm, "relative_position": layout.relative}


def _shape(layout: Layout, beside: Beside, path: Path) -> dict[str, Any]:
    """Infer the network's shape from its tensors, and its depth from a config if there is one."""
    tensors, depth = layout.tensors, layout.depth
    patch, position = tensors["patch_embed.proj.weight"], tensors.get("pos_embed")
    first = next((t for name, t in tensors.items() if name.endswith(".mlp.fc1.weight") and t.ndim == 2), None)
    reason = ""
    if patch.ndim != 4 or patch.shape[1] != 3 or patch.shape[2] != patch.shape[3]:
        reason = f"its patch embedding has the shape {tuple(patch.shape)}; square patches of three colours are known"
    elif "cls_token" not in tensors:
        reason = "it has no class token"
    elif position is None or first is None or depth == 0:
        reason = "it lacks a position embedding or blocks, which nothing can replace"
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
    if beside.width not in (None, width) or depth > (beside.depth or depth):
        said = f"width {beside.width or width} and {plural(beside.depth or depth, 'block')}"
        raise CheckpointError(
            f"{printable(path)} is not what config.json beside it describes",
            why=f"That says {said}; the file has width {width} and {plural(depth, 'block')}",
            fix="give the file that belongs to it, or move config.json away",
        )
    grid = round((position.shape[1] - 1) ** 0.5)
    ratio = first.shape[0] / width
    return {
        "image_size": grid * side,
        "patch_size": side,
        "width": width,
        "depth": beside.depth or depth,
        "mlp_ratio": ratio,
    }


def _require_named(layout: Layout, named: Named, path: Path) -> None:
    """Require the network's own tensors: a bias or a norm that the file lacks is not one that another network lacks.

    Classes may differ, the norm may stand behind the pooling, and positions may be of another grid.
    """
    what = f"{printable(path)} is not {named.architecture}"
    fix = f"timm:NAME@FILE with the name of the model that the file is of; or {as_it_is(path)}"
    patch = layout.tensors["patch_embed.proj.weight"].shape
    there = (patch[2], patch[0], layout.depth)
    if there != named.shape:
        why = "Patch size, width and depth are {}, {}, {} there and {}, {}, {} in timm".format(*there, *named.shape)
        raise CheckpointError(what, why=why, fix=fix)
    own = {n for n in layout.found if n.startswith("fc_norm.") or layout.prefix + n not in layout.dropped}
    require_same(_comparable({n: layout.found[n] for n in own}), _comparable(named.tensors), what=what, fix=fix)


def _comparable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = {n: t for n, t in tensors.items() if not n.startswith("head.") and n != "pos_embed"}
    return {n.replace("fc_norm.", "norm."): t for n, t in kept.items()}


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
        layout.lost[layout.prefix + name] = STRANGER
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
    parts, others = [], any(reason != STRANGER for reason in layout.lost.values())
    if missing:
        parts.append(f"{plural(len(missing), 'tensor')} missing: {', '.join(missing[:4])}{' …' * (len(missing) > 4)}")
    for reason in sorted(set(layout.lost.values())):
        names = [printable(name) for name, of in layout.lost.items() if of == reason]
        parts.append(f"it has {reason} ({names[0]}{' …' * (len(names) > 1)})")
    why = "; ".join(parts)
    why = why[:1].upper() + why[1:]
    partially = "--allow-partial, which leaves missing tensors untrained and ignores what has no place"
    if layout.lost and (others or not missing):
        raise CheckpointError(
            f"{printable(path)} is not a plain ViT, and other networks are not supported",
            why=why,
            fix=f"give a file of a plain ViT; or {partially}: the encoder then computes something else",
        )
    raise CheckpointError(
        f"{printable(path)} is not the whole encoder",
        why=why,
        fix=f"the whole file; or {partially}",
    )


def resized(encoder: Encoder, image_size: int) -> Encoder:
    """Return the encoder for another image size, its position embedding resized bicubically.

    Raises:
        UsageError: if the patches do not tile such an image, or positions are relative.
    """
    if encoder.config.relative_position:
        raise UsageError("relative positions cannot be resized", fix="leave --image-size out")
    config = encoder.config.changed(image_size=image_size)
    other = Encoder(config, normalisation=encoder.normalisation)
    tensors = cast(dict[str, Tensor], dict(encoder.vit.state_dict()))
    other.vit.load_state_dict(tensors | {"pos_embed": resize(tensors["pos_embed"], grid=config.grid)})
    return other


def _notes(
    kind: Kind, file: WeightsFile, beside: Beside, classifier: Classifier | None, *, is_normalisation_asked: bool
) -> tuple[str, ...]:
    notes = [*beside.remarks]
    for other in map(printable, file.siblings):
        average = ", an average over training by its name" if "ema" in other.lower() else ""
        notes.append(
            f"the weights under {printable(file.wrapper)} were taken; the same network is also under {other}"
            f"{average}: --entry {other} takes that"
        )
    if kind.licence == NON_COMMERCIAL:
        notes.append(
            f"LICENCE: the {kind.name} weights that facebookresearch released are {NON_COMMERCIAL}: not for "
            "commercial use, and neither is what is trained from them"
        )
    elif kind is OWN:
        notes.append(
            "this is a checkpoint of a run of vitlet, whose other files tell its heads, its pixels and the licences "
            "behind it; the run itself needs no import"
        )
    elif kind.licence == UNKNOWN:
        note = "the file does not say under which licence it may be used; ask where it came from"
        if kind.authors is not None:
            project, licence = kind.authors
            note += f". The files of {project}'s authors are {licence}; this one does not say whether it is one of them"
        notes.append(note)
    if kind.authors is not None and kind.is_project and not (is_normalisation_asked or beside.normalisation):
        notes.append(f"its pixels are taken to be normalised as {kind.name}'s are, by ImageNet's mean and deviation")
    if not is_normalisation_asked and beside.normalisation is None and (beside.remarks or not kind.is_project):
        notes.append(
            "the file does not say how its pixels were normalised; ImageNet's mean and deviation are assumed. Give "
            "--pixels half for weights that were trained on -1 … 1 (many of timm's and Google's)"
        )
    if classifier is not None and classifier.pool == "class" and beside.pool is None:
        notes.append("the file does not say what its classifier reads; the class token is assumed")
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
