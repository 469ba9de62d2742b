"""An encoder or classifier as a folder that timm opens, and back; ConvNets too.

`config.json` (timm's own format: architecture, its arguments, preprocessing), `model.safetensors` with timm's names,
and a `README.md` card. The head count stands among the arguments, since tensors alone do not show it. A `vitlet`
section that timm ignores holds what is needed to train on.

    timm.create_model("local-dir:RUN/encoder", pretrained=True)
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitlet.augmentation import Centre, View
from vitlet.disk import read_json, to_json_bytes, write_folder
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.convnet import AnyEncoder, ConvEncoder
from vitlet.nn.encoder import Encoder, Pool
from vitlet.nn.heads import AnyClassifier, ConvClassifier, new_classifier
from vitlet.nn.posembed import resize
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.text import plural, printable
from vitlet.weights.beit import ARCHITECTURE as BEIT
from vitlet.weights.beit import beit_arguments, from_beit, to_beit, with_relative_positions
from vitlet.weights.card import card
from vitlet.weights.names import CONFIG
from vitlet.weights.tensors import require_same, sealed, unsealed

WEIGHTS, CARD = "model.safetensors", "README.md"
PROOF, PREPROCESSING = "proof.json", "preprocessing.json"
"""Beside an exported model."""


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    encoder: AnyEncoder
    classifier: AnyClassifier | None
    classes: tuple[str, ...]
    evaluation: View
    sha256: str
    """Of the weights file."""
    facts: dict[str, Any]
    """Provenance as it was written."""


def write_model(
    path: Path,
    *,
    encoder: AnyEncoder,
    evaluation: View,
    facts: dict[str, Any],
    classifier: AnyClassifier | None = None,
    classes: tuple[str, ...] = (),
) -> None:
    """Write the folder, whole or not at all.

    Args:
        path: The folder; replaced if it is there.
        encoder: Its tensors get timm's names.
        evaluation: The view that evaluation uses, told to timm as preprocessing.
        facts: Provenance for the card: recipe, data, command, numbers.
        classifier: Adds `fc_norm` and `head`, or what timm calls the last layer of the ConvNet.
        classes: Names of the head's outputs.
    """
    tensors = _named(_parts(encoder, classifier))
    if isinstance(encoder, Encoder) and encoder.config.relative_position:
        tensors = to_beit(tensors)
    weights, sha256 = sealed(tensors)
    config = _timm_config(encoder, evaluation, classifier, classes)
    config["vitlet"] = {
        "encoder": encoder.config.to_json(),
        "evaluation": evaluation.to_json(),
        "pool": classifier.pool if classifier else None,
        "sha256": sha256,
        "facts": facts,
    }
    write_folder(
        path, {WEIGHTS: weights, CONFIG: to_json_bytes(config), CARD: card_of(encoder, classes, facts).encode()}
    )


def network(encoder: AnyEncoder) -> nn.Module:
    """The module of timm inside, whose names the tensors have in files."""
    return encoder.net if isinstance(encoder, ConvEncoder) else encoder.vit


def _parts(encoder: AnyEncoder, classifier: AnyClassifier | None) -> list[tuple[str, nn.Module]]:
    """Everything that is saved, with what comes before its names in files."""
    prefix = f"{encoder.head_name}." if isinstance(encoder, ConvEncoder) else ""
    assert classifier is None or isinstance(classifier, ConvClassifier) == isinstance(encoder, ConvEncoder)
    return [("", network(encoder)), *([] if classifier is None else [(prefix, classifier)])]


def _named(parts: list[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    return {prefix + name: value for prefix, part in parts for name, value in part.state_dict().items()}


def _timm_config(
    encoder: AnyEncoder, evaluation: View, classifier: AnyClassifier | None, classes: tuple[str, ...]
) -> dict[str, Any]:
    num_classes, size = len(classes), encoder.config.image_size
    share = evaluation.crop.share if isinstance(evaluation.crop, Centre) else 1.0
    if isinstance(encoder, ConvEncoder):
        named = {"architecture": encoder.config.architecture, "num_features": encoder.width, "global_pool": "avg"}
        stride = encoder.config.output_stride
        named["model_args"] = {} if stride == 32 else {"output_stride": stride}
    else:
        named = _vit_arguments(encoder.config, pool=classifier.pool if classifier else None)
    return {
        **named,
        "num_classes": num_classes,
        **({"label_names": list(classes)} if classes else {}),
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": isinstance(encoder, Encoder),
            "interpolation": evaluation.crop.interpolation if isinstance(evaluation.crop, Centre) else "bicubic",
            "crop_pct": share,
            "crop_mode": "center",
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": num_classes,
            "classifier": encoder.head_name if isinstance(encoder, ConvEncoder) else "head",
            **({} if isinstance(encoder, ConvEncoder) else {"first_conv": "patch_embed.proj"}),
        },
    }


def _vit_arguments(shape: EncoderConfig, *, pool: Pool | None) -> dict[str, Any]:
    """Without a head (`pool` None) timm's features are those of `vitlet embed`: the mean of the patch tokens. timm puts
    the norm behind a mean unless it is told that there is none.
    """
    global_pool = "token" if pool == "class" else "avg"
    arguments = {
        "img_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp_ratio,
        "global_pool": global_pool,
    }
    if shape.relative_position:
        arguments |= beit_arguments(shape, has_classifier=pool is not None)
    elif pool is None:
        arguments |= {"fc_norm": False} if shape.final_norm else {"final_norm": False}
    return {
        "architecture": BEIT if shape.relative_position else "vit_tiny_patch16_224",
        "num_features": shape.width,
        "global_pool": global_pool,
        "model_args": arguments,
    }


def card_of(
    encoder: AnyEncoder,
    classes: tuple[str, ...],
    facts: dict[str, Any],
    *,
    target: str = "timm",
    results: Mapping[str, Any] | None = None,
    proof: Mapping[str, Any] | None = None,
) -> str:
    """The card of an encoder, or of a classifier of `classes`; see `weights.card`."""
    family = "ConvNet" if isinstance(encoder, ConvEncoder) else "Vision transformer"
    kind = f"classifier of {plural(len(classes), 'class', 'classes')}" if classes else "encoder without a head"
    return card(
        title=f"{family}, {kind}",
        description=f"{_described(encoder)}.",
        tags=("image-classification", family.lower().replace(" ", "-"), "vitlet"),
        facts=facts,
        target=target,
        results=results,
        proof=proof,
    )


def _described(encoder: AnyEncoder) -> str:
    if isinstance(encoder, ConvEncoder):
        return f"{encoder.config.architecture} with {encoder.width} features, {encoder.config.image_size} px"
    shape = encoder.config
    return (
        f"Width {shape.width}, depth {shape.depth}, {shape.heads} heads, {shape.image_size} px in patches of "
        f"{shape.patch_size} px"
    )


def require_replaceable(folder: Path, *, files: Set[str] = frozenset()) -> None:
    """Refuse to put a model where something else is: writing one replaces the whole folder.

    Args:
        folder: Where the model is to stand.
        files: Names that a model folder may hold beside those of timm's format.

    Raises:
        UsageError: if anything but an empty folder or a model folder stands there.
    """
    ours = {CONFIG, WEIGHTS, CARD, PROOF, PREPROCESSING} | files
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= ours):
        raise UsageError(
            f"{printable(folder)} is there and not a model folder",
            why="Nothing in it was changed",
            fix="give --out a new folder",
        )


def read_model(path: Path) -> Saved:
    """Read a folder that `write_model` wrote, all of it, verified.

    Raises:
        CheckpointError: if a file is missing, altered, or the tensors are not exactly the network's.
    """
    config = read_json(path / CONFIG)
    ours = config.get("vitlet") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        raise CheckpointError(
            f"{printable(path / CONFIG)} was not written by vitlet", fix="vitlet import FILE --out DIR"
        )
    try:
        saved = _described_in(config)
    except (KeyError, TypeError, UsageError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{printable(path / CONFIG)} describes no model that this vitlet knows",
            why=f"It was written by another version, or changed: {why}",
            fix="export it again with the version that trained it and this one's `vitlet import`, or train again",
        ) from None
    tensors = from_beit(unsealed(path / WEIGHTS, sha256=saved.sha256))
    load_exactly(saved.encoder, tensors, where=printable(path / WEIGHTS), classifier=saved.classifier)
    return saved


def _described_in(config: dict[str, Any]) -> Saved:
    """The model that `config` describes, with untrained weights.

    Raises:
        KeyError, TypeError, UsageError: where something is missing or has another form.
    """
    ours, preprocessing = config["vitlet"], config["pretrained_cfg"]
    mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    if ours["encoder"]["kind"] == "convnet":
        encoder = ConvEncoder(ConvNetConfig.from_json(ours["encoder"]), mean=mean, std=std)
    else:
        encoder = Encoder(EncoderConfig.from_json(ours["encoder"]), mean=mean, std=std)
    classes = tuple(config.get("label_names", ()))
    classifier = None
    if ours["pool"]:
        classifier = new_classifier(encoder, num_classes=len(classes), pool=ours["pool"], seed=0)
    return Saved(encoder, classifier, classes, View.from_json(ours["evaluation"]), ours["sha256"], ours["facts"])


def load_exactly(
    encoder: AnyEncoder, tensors: dict[str, Tensor], *, where: str, classifier: AnyClassifier | None = None
) -> None:
    """Load tensors with timm's names; every one must be used and none may be missing, or nothing is loaded.

    Raises:
        CheckpointError: naming the first names and shapes that differ.
    """
    parts = _parts(encoder, classifier)
    require_same(tensors, _named(parts), what=f"{where} does not fit this network")
    for prefix, part in parts:
        part.load_state_dict({name: tensors[prefix + name] for name in part.state_dict()})


def initialised_from(source: Encoder, target: EncoderConfig, *, seed: int, keep_blocks: int | None = None) -> Encoder:
    """An encoder made as `target` says, with all tensors of `source` that it has.

    The final norm may be left out (a mean-pooling head brings its own) or start afresh, relative positions may be new,
    and absolute ones are resized to another image size: all by design of the recipe. Everything else must fit.

    Args:
        source: Trained weights.
        target: The shape and settings of the result.
        seed: Of what starts afresh.
        keep_blocks: Only patch embedding, tokens and so many of the lowest blocks are trained (Wang et al. 2023,
            Figures 2 and 4), the rest is as `source` was before its training; with 0 all of it. None: everything is
            trained. What is kept then differs from what is not in training alone, and not in how it was initialised.

    Raises:
        CheckpointError: if the shapes differ.
        UsageError: if there are not so many blocks.
    """
    if keep_blocks is not None:
        source = _cut(source, keep_blocks, seed=seed)
    encoder = Encoder(target, mean=source.mean, std=source.std, seed=seed)
    fresh = cast(dict[str, Tensor], dict(encoder.vit.state_dict()))
    tensors = cast(dict[str, Tensor], dict(source.vit.state_dict()))
    if not target.final_norm:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("norm.")}
    elif not source.config.final_norm:
        tensors |= {k: v for k, v in fresh.items() if k.startswith("norm.")}
    if target.relative_position and not source.config.relative_position:
        tensors = with_relative_positions(tensors, fresh, inherit_qkv_bias=target.inherit_qkv_bias)
    if source.config.grid != target.grid:  # once, and not within every step: what is trained is the resized table
        with torch.no_grad():
            tensors["pos_embed"] = resize(tensors["pos_embed"], grid=target.grid)
    load_exactly(encoder, tensors, where="the initial encoder")
    return encoder


def _cut(source: Encoder, blocks: int, *, seed: int) -> Encoder:
    """`source` with all above its lowest blocks as it was before training; above none lies everything."""
    depth = source.config.depth
    if not 0 <= blocks <= depth:
        raise UsageError(f"{blocks} blocks of an encoder that has {depth}", fix=f"--keep-blocks 0 … {depth}")
    cut = Encoder(source.config, mean=source.mean, std=source.std, seed=seed)
    if blocks:
        above = ("norm.", *(f"blocks.{i}." for i in range(blocks, depth)))
        kept = {k: v for k, v in source.vit.state_dict().items() if not k.startswith(above)}
        cut.vit.load_state_dict(kept, strict=False)
    return cut
