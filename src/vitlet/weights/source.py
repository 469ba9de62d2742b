"""The one way from what a user names to an encoder; nothing here ever falls back to random weights."""

import os
from typing import Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlet.augmentation import Centre, View
from vitlet.disk import read_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.encoder import Pixels
from vitlet.text import did_you_mean, printable
from vitlet.weights.folder import Saved, read_model
from vitlet.weights.foreign import import_file
from vitlet.weights.names import CONFIG, Source, model_folder

_SMALL_PIXELS = 64


def load_encoder(source: str | os.PathLike[str] | Source) -> Saved:
    """The model in a run, a model folder, or a file of timm's weights (`timm:NAME@FILE`).

    Raises:
        UsageError: if nothing is there, or a bare file is given, which does not say what it holds.
        CheckpointError: if what is there is damaged, unfinished, or something else than it is called.
    """
    named = source if isinstance(source, Source) else Source.parse(source)
    named.require_model()
    if named.architecture is not None:
        return _from_timm(named, named.architecture)
    return read_model(model_folder(named.path))


def facts_of(source: str | os.PathLike[str] | Source) -> dict[str, Any]:
    """The provenance of what `load_encoder` would read, without its weights where that can be.

    Raises:
        CheckpointError, UsageError: as `load_encoder`.
    """
    named = source if isinstance(source, Source) else Source.parse(source)
    if named.architecture is not None:
        return load_encoder(named).facts
    facts = read_json(model_folder(named.path) / CONFIG).get("vitlet", {}).get("facts")
    return facts if isinstance(facts, dict) else {}


def evaluation_view(image_size: int) -> View:
    """How an image is shown to an encoder that says nothing about it: ImageNet's centre crop, small images whole."""
    return View(size=image_size, crop=Centre(share=1.0 if image_size <= _SMALL_PIXELS else 0.875), flip=0)


def _from_timm(source: Source, architecture: str) -> Saved:
    """A file read as the plain ViT that timm knows under a name: heads and pixels are that model's."""
    model = plain_vit(architecture)
    block: Any = model.blocks[0]
    values = cast(dict[str, Any], model.pretrained_cfg)
    pixels = cast(tuple[Pixels, Pixels], (tuple(values["mean"]), tuple(values["std"])))
    found = import_file(source.path, heads=block.attn.num_heads, pixels=pixels)
    config = found.encoder.config
    there = (config.patch_size, config.width, config.depth)
    wanted = (model.patch_embed.patch_size[0], model.embed_dim, len(model.blocks))
    if there != wanted:
        raise CheckpointError(
            f"{printable(source.path)} is not {architecture}",
            why="Patch size, width and depth are {}, {}, {} there and {}, {}, {} in timm".format(*there, *wanted),
            fix="timm:NAME@FILE with the name of the model that the file is of",
        )
    view = evaluation_view(config.image_size)
    classes = tuple(str(i) for i in range(found.classifier.head.out_features)) if found.classifier else ()
    facts = {**found.facts, "architecture": architecture}
    return Saved(found.encoder, found.classifier, classes, view, found.facts["source"]["sha256"], facts)


def plain_vit(architecture: str) -> VisionTransformer:
    """A plain ViT of timm by its name, without weights: to be looked at, not to be run."""
    name, _, _ = architecture.partition(".")  # a tag of weights says nothing about the network
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models("*vit*"))
        raise UsageError(
            f"timm has no model {printable(name)!r}", why=near if near.startswith("Did") else "", fix="timm:NAME@FILE"
        )
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    first: Any = model.blocks[0] if isinstance(model, VisionTransformer) else None
    if not isinstance(model, VisionTransformer) or not isinstance(getattr(first.mlp, "act", None), nn.GELU):
        raise UsageError(f"{name} is not a plain ViT", fix="a name like vit_tiny_patch16_224")
    return model
