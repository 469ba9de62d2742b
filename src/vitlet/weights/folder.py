"""Model folders in timm's format: an encoder or classifier, ViT or ConvNet, written and read.

A folder has `config.json` (timm's own format: architecture, its arguments, preprocessing), `model.safetensors` with
timm's names, and a `README.md` card. The arguments include the head count, which tensors alone do not show. timm
ignores the `vitlet` section, which holds what further training needs.

    timm.create_model("local-dir:RUN/encoder", pretrained=True)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitlet.augmentation import View
from vitlet.choices import Pool
from vitlet.disk import to_json_bytes, write_folder
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.convnet import AnyEncoder, ConvEncoder, new_encoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import AnyClassifier, ConvClassifier, new_classifier
from vitlet.nn.posembed import resize
from vitlet.normalisation import Normalisation
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.text import plural, printable
from vitlet.weights.beit import ARCHITECTURE as BEIT
from vitlet.weights.beit import beit_arguments, from_beit, to_beit, with_relative_positions
from vitlet.weights.card import card, published
from vitlet.weights.files import CARD, own_config
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.preprocessing import remark, timm_resizing
from vitlet.weights.tensors import require_same, sealed, unsealed


@dataclass(frozen=True)
class Saved:
    """Content of a model folder."""

    encoder: AnyEncoder
    classifier: AnyClassifier | None
    classes: tuple[str, ...]
    evaluation: View
    sha256: str
    """SHA-256 (hex) of the weights file."""
    facts: dict[str, Any]
    """Provenance as written."""


def write_model(
    path: Path,
    *,
    encoder: AnyEncoder,
    evaluation: View,
    facts: dict[str, Any],
    classifier: AnyClassifier | None = None,
    classes: tuple[str, ...] = (),
) -> None:
    """Write the folder atomically.

    Args:
        path: The folder; replaced if it exists.
        encoder: The encoder; its tensors get timm's names.
        evaluation: The view used in evaluation, which becomes timm's preprocessing.
        facts: Provenance for the card: recipe, data, command, numbers.
        classifier: Adds `fc_norm` and `head`, or the ConvNet's last layer under timm's name.
        classes: Names of the head's outputs.

    Raises:
        UsageError: if the view crops in a way that timm's config cannot tell.
    """
    tensors, facts = _named(_parts(encoder, classifier)), published(facts)
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
    told = card_of(encoder, classes, facts, evaluation=evaluation)
    write_folder(path, {WEIGHTS: weights, CONFIG: to_json_bytes(config), CARD: told.encode()})


def _parts(encoder: AnyEncoder, classifier: AnyClassifier | None) -> list[tuple[str, nn.Module]]:
    """Return the modules to save, each with the prefix of its names in files."""
    prefix = f"{encoder.head_name}." if isinstance(encoder, ConvEncoder) else ""
    assert classifier is None or isinstance(classifier, ConvClassifier) == isinstance(encoder, ConvEncoder)
    return [("", encoder.network), *([] if classifier is None else [(prefix, classifier)])]


def _named(parts: list[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    return {prefix + name: value for prefix, part in parts for name, value in part.state_dict().items()}


def _timm_config(
    encoder: AnyEncoder, evaluation: View, classifier: AnyClassifier | None, classes: tuple[str, ...]
) -> dict[str, Any]:
    num_classes, size = len(classes), encoder.config.image_size
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
            **timm_resizing(evaluation),
            "mean": list(encoder.normalisation.mean),
            "std": list(encoder.normalisation.std),
            "num_classes": num_classes,
            "classifier": encoder.head_name if isinstance(encoder, ConvEncoder) else "head",
            **({} if isinstance(encoder, ConvEncoder) else {"first_conv": "patch_embed.proj"}),
        },
    }


def _vit_arguments(shape: EncoderConfig, *, pool: Pool | None) -> dict[str, Any]:
    """Return timm's ViT arguments; without a head (`pool` None), features are the mean of the patch tokens.

    That is what `vitlet embed` returns. timm moves the norm behind the mean unless `fc_norm` is off.
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
    evaluation: View,
    target: str = "timm",
    results: Mapping[str, Any] | None = None,
    proof: Mapping[str, Any] | None = None,
) -> str:
    """Return the card of an encoder, or of a classifier of `classes`; see `weights.card`."""
    family = "ConvNet" if isinstance(encoder, ConvEncoder) else "Vision transformer"
    kind = f"classifier of {plural(len(classes), 'class', 'classes')}" if classes else "encoder without a head"
    return card(
        title=f"{family}, {kind}",
        description=f"{shape_of(encoder)}. {remark(evaluation, encoder.normalisation, target=target)}".rstrip(),
        tags=("image-classification", family.lower().replace(" ", "-"), "vitlet"),
        facts=facts,
        target=target,
        results=results,
        proof=proof,
    )


def shape_of(encoder: AnyEncoder) -> str:
    """Describe the sizes of an encoder in words."""
    if isinstance(encoder, ConvEncoder):
        return f"{encoder.config.architecture} with {encoder.width} features, {encoder.config.image_size} px"
    shape = encoder.config
    return (
        f"Width {shape.width}, depth {shape.depth}, {shape.heads} heads, {shape.image_size} px in patches of "
        f"{shape.patch_size} px"
    )


def read_model(path: Path) -> Saved:
    """Read and verify a folder that `write_model` wrote.

    Raises:
        CheckpointError: if a file is missing or altered, or the tensors are not exactly the network's.
    """
    config = own_config(path)
    try:
        saved = _described_in(config)
    except (CheckpointError, TypeError, UsageError) as error:
        why = error.what if isinstance(error, CheckpointError) else str(error)
        raise CheckpointError(
            f"{printable(path / CONFIG)} describes no model that this vitlet knows",
            why=f"It was written by another version, or changed: {why}",
            fix="export it again with the version that trained it and this one's `vitlet import`, or train again",
        ) from None
    tensors = from_beit(unsealed(path / WEIGHTS, sha256=saved.sha256))
    load_exactly(saved.encoder, tensors, where=printable(path / WEIGHTS), classifier=saved.classifier)
    return saved


def _described_in(config: dict[str, Any]) -> Saved:
    """Build the model that `config` describes, with untrained weights.

    Raises:
        CheckpointError, TypeError, UsageError: if something is missing or malformed.
    """
    ours, preprocessing = config["vitlet"], config["pretrained_cfg"]
    kind = ConvNetConfig if ours["encoder"]["kind"] == "convnet" else EncoderConfig
    encoder = new_encoder(kind.from_json(ours["encoder"]), normalisation=Normalisation.of_timm(preprocessing))
    classes = tuple(config.get("label_names", ()))
    classifier = None
    if ours["pool"]:
        classifier = new_classifier(encoder, num_classes=len(classes), pool=ours["pool"], seed=0)
    return Saved(encoder, classifier, classes, View.from_json(ours["evaluation"]), ours["sha256"], ours["facts"])


def load_exactly(
    encoder: AnyEncoder, tensors: dict[str, Tensor], *, where: str, classifier: AnyClassifier | None = None
) -> None:
    """Load tensors with timm's names; if any is unused or missing, nothing is loaded.

    Raises:
        CheckpointError: naming the first tensors that differ.
    """
    parts = _parts(encoder, classifier)
    require_same(tensors, _named(parts), what=f"{where} does not fit this network")
    for prefix, part in parts:
        part.load_state_dict({name: tensors[prefix + name] for name in part.state_dict()})


def initialised_from(source: Encoder, target: EncoderConfig, *, seed: int, keep_blocks: int | None = None) -> Encoder:
    """Build the encoder of `target`, initialised from `source`.

    As the recipe requires, the final norm may be dropped (a mean-pooling head has its own) or new, relative positions
    may be new, and absolute ones are resized to another image size. Everything else must match.

    Args:
        source: Trained weights.
        target: The shape and settings of the result.
        seed: Seed of new parameters.
        keep_blocks: Keep only the patch embedding, the tokens and this many of the lowest blocks (Wang et al. 2023,
            Figures 2 and 4) and reinitialise the rest; 0 reinitialises everything, None keeps everything. The rest is
            initialised as `source` was, so that it differs from the kept part in training alone.

    Raises:
        CheckpointError: if the shapes differ.
        UsageError: if `source` has fewer blocks.
    """
    if keep_blocks is not None:
        source = _cut(source, keep_blocks, seed=seed)
    encoder = Encoder(target, normalisation=source.normalisation, seed=seed)
    fresh = cast(dict[str, Tensor], dict(encoder.vit.state_dict()))
    tensors = cast(dict[str, Tensor], dict(source.vit.state_dict()))
    if not target.final_norm:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("norm.")}
    elif not source.config.final_norm:
        tensors |= {k: v for k, v in fresh.items() if k.startswith("norm.")}
    if target.relative_position and not source.config.relative_position:
        tensors = with_relative_positions(tensors, fresh, inherit_qkv_bias=target.inherit_qkv_bias)
    if source.config.grid != target.grid:  # once, so that the resized table is trained
        with torch.no_grad():
            tensors["pos_embed"] = resize(tensors["pos_embed"], grid=target.grid)
    load_exactly(encoder, tensors, where="the initial encoder")
    return encoder


def _cut(source: Encoder, blocks: int, *, seed: int) -> Encoder:
    """Reinitialise everything above the lowest `blocks` blocks of `source`; with 0, the whole encoder."""
    depth = source.config.depth
    if not 0 <= blocks <= depth:
        raise UsageError(f"{blocks} blocks of an encoder that has {depth}", fix=f"--keep-blocks 0 … {depth}")
    cut = Encoder(source.config, normalisation=source.normalisation, seed=seed)
    if blocks:
        above = ("norm.", *(f"blocks.{i}." for i in range(blocks, depth)))
        kept = {k: v for k, v in source.vit.state_dict().items() if not k.startswith(above)}
        cut.vit.load_state_dict(kept, strict=False)
    return cut
