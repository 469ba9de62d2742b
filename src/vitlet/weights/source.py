"""Loads the encoder that a user names; nothing here ever falls back to random weights."""

import os
from typing import Any, cast

import timm
import torch
from timm.layers.layer_scale import LayerScale
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from vitlet.augmentation import Centre, View
from vitlet.disk import read_json
from vitlet.errors import UsageError
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.heads import new_classifier
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import ConvNetConfig
from vitlet.text import did_you_mean, printable
from vitlet.weights.folder import Saved, load_exactly, read_model
from vitlet.weights.foreign import import_file
from vitlet.weights.kinds import UNKNOWN, Named
from vitlet.weights.layouts import arrange
from vitlet.weights.names import CONFIG, Source, model_folder
from vitlet.weights.reading import read_weights

_SMALL_PIXELS = 64


def load_encoder(source: str | os.PathLike[str] | Source) -> Saved:
    """Load a plain ViT or ConvNet from a run, a model folder, or a file of timm's weights (`timm:NAME@FILE`).

    Raises:
        UsageError: if nothing is there, or a weights file is given without its architecture.
        CheckpointError: if the model is damaged, unfinished, or not the named architecture.
    """
    named = source if isinstance(source, Source) else Source.parse(source)
    named.require_model()
    if named.architecture is not None:
        return _from_timm(named, named.architecture)
    return read_model(model_folder(named.path))


def facts_of(source: str | os.PathLike[str] | Source) -> dict[str, Any]:
    """Return the provenance of the model that `load_encoder` would load, without loading weights if possible.

    Raises:
        CheckpointError, UsageError: see `load_encoder`.
    """
    named = source if isinstance(source, Source) else Source.parse(source)
    if named.architecture is not None:
        return load_encoder(named).facts
    facts = read_json(model_folder(named.path) / CONFIG).get("vitlet", {}).get("facts")
    return facts if isinstance(facts, dict) else {}


def evaluation_view(image_size: int) -> View:
    """Return the default evaluation view: ImageNet's centre crop, or no crop for small images."""
    return View(size=image_size, crop=Centre(share=1.0 if image_size <= _SMALL_PIXELS else 0.875), flip=0)


def _from_timm(source: Source, architecture: str) -> Saved:
    """Load a file as timm's plain ViT or ConvNet of that name, with its head count.

    Its pixels are normalised as timm does for that name and tag, unless the file or a config next to it tells more.
    """
    model = blank_network(architecture)
    values = cast(dict[str, Any], model.pretrained_cfg)
    normalisation = Normalisation.of_timm(values)
    if not isinstance(model, VisionTransformer):
        size = values["input_size"][-1]
        return _convnet_from_timm(source, architecture, image_size=size, normalisation=normalisation)
    block: Any = require_plain(model, architecture).blocks[0]
    tensors = model.state_dict()
    named = Named(architecture, heads=block.attn.num_heads, normalisation=normalisation, tensors=tensors)
    found = import_file(source.path, named=named)
    view = evaluation_view(found.encoder.config.image_size)
    classes = numbered_classes(found.classifier.head.out_features) if found.classifier else ()
    facts = {**found.facts, "architecture": architecture}
    return Saved(found.encoder, found.classifier, classes, view, found.facts["source"]["sha256"], facts)


def _convnet_from_timm(source: Source, architecture: str, *, image_size: int, normalisation: Normalisation) -> Saved:
    """Load a ConvNet, with its classifier if the file has one; the tensors must match exactly."""
    encoder = untrained_convnet(architecture, image_size=image_size, normalisation=normalisation)
    file = read_weights(source.path)
    head = file.tensors.get(f"{encoder.head_name}.weight")
    classifier = None if head is None else new_classifier(encoder, num_classes=len(head), pool="mean", seed=0)
    load_exactly(encoder, file.tensors, where=f"{printable(source.path)} as {architecture}", classifier=classifier)
    facts = {
        "source": {"file": printable(source.path.name), "sha256": file.sha256, "kind": architecture},
        "licence": UNKNOWN,
        "architecture": architecture,
    }
    classes = () if head is None else numbered_classes(len(head))
    return Saved(encoder, classifier, classes, evaluation_view(image_size), file.sha256, facts)


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names of the classes of a head that has none: their numbers."""
    return tuple(str(i) for i in range(count))


def untrained_convnet(
    architecture: str, *, image_size: int, normalisation: Normalisation = IMAGENET, seed: int = 0
) -> ConvEncoder:
    """Create timm's ConvNet of that name with random weights.

    Raises:
        UsageError: if timm has no ConvNet of that name, or it does not support this image size.
    """
    name, _, _ = architecture.partition(".")
    try:
        config = ConvNetConfig(architecture=name, image_size=image_size)
        return ConvEncoder(config, normalisation=normalisation, seed=seed)
    except UsageError as error:
        raise UsageError(
            f"{name} is neither a plain ViT nor a ConvNet",
            why=error.why,
            fix="a name like vit_tiny_patch16_224 or resnet18",
        ) from None


def blank_network(architecture: str) -> nn.Module:
    """Create any timm network on the meta device, for inspection only.

    Raises:
        UsageError: if timm has no such network.
    """
    require_known(architecture)
    with torch.device("meta"):
        return cast(nn.Module, timm.create_model(architecture, pretrained=False))


def require_known(architecture: str) -> None:
    """Refuse a name that timm has no network for, or no weights if it has a tag.

    Raises:
        UsageError: naming the nearest.
    """
    name, _, _ = architecture.partition(".")
    what, near = "", ""
    if not timm.is_model(name):
        what, near = f"timm has no model {printable(name)!r}", did_you_mean(name, timm.list_models())
    else:
        try:
            timm.get_pretrained_cfg(architecture)
        except RuntimeError:
            what = f"timm knows no weights {printable(architecture)!r}"
            near = did_you_mean(architecture, timm.list_pretrained(f"{name}.*"))
    if what:
        raise UsageError(what, why=near if near.startswith("Did") else "", fix="timm:NAME@FILE")


def require_plain(model: VisionTransformer, architecture: str, *, layer_scale: bool = True) -> VisionTransformer:
    """Return `model` if it is a plain ViT.

    Args:
        model: One of timm's, which may be on the meta device.
        architecture: Its name.
        layer_scale: Whether it may have LayerScale, which an import multiplies into other weights.

    Raises:
        UsageError: otherwise, with the reason.
    """
    first: Any = model.blocks[0]
    reason = ""
    if not all(type(block) is Block for block in model.blocks):
        reason = f"Its blocks are of another kind, {type(first).__name__}"
    elif type(model.patch_embed) is not PatchEmbed:
        reason = f"Its patch embedding is of another kind, {type(model.patch_embed).__name__}"
    elif not isinstance(first.norm1, nn.LayerNorm):
        reason = "Its norms are of another kind"
    elif getattr(getattr(first.mlp, "act", None), "approximate", None) != "none":
        reason = "Its activation is not the exact GELU"
    elif lost := set(arrange(dict(model.state_dict())).lost.values()):
        reason = f"It has {' and '.join(sorted(lost))}"
    elif model.cls_token is None or model.pos_embed is None:
        reason = "It has no class token" if model.cls_token is None else "It has no position embedding"
    elif isinstance(first.ls1, LayerScale) and not layer_scale:
        reason = "It has LayerScale"
    if reason:
        raise UsageError(f"{architecture} is not a plain ViT", why=reason, fix="a name like vit_tiny_patch16_224")
    return model
