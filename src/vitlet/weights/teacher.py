"""Loads teachers for distillation: encoders for attention or features, classifiers for logits.

A teacher is named like an initial encoder: a run, a model folder, or `timm:NAME@FILE`. `untrained:NAME` requests timm's
architecture with random weights, as a control. A missing path is an error and never falls back to that.
"""

from dataclasses import dataclass
from typing import Any, cast

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlet.choices import TeacherPrecision
from vitlet.errors import UsageError
from vitlet.nn.convnet import AnyEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive
from vitlet.text import printable
from vitlet.weights.kinds import UNKNOWN
from vitlet.weights.names import Source, model_folder, untrained_architecture
from vitlet.weights.reading import read_weights
from vitlet.weights.source import blank_network, load_encoder, require_known, require_plain, untrained_convnet
from vitlet.weights.tensors import require_same

_GIVE = "--set objective.teacher=RUN, or a model folder, or timm:NAME@FILE"


@dataclass(frozen=True)
class FeatureTeacher:
    """An encoder of any kind as teacher of its pooled features, one vector per image."""

    encoder: AnyEncoder
    facts: dict[str, Any]
    """For the student's card: source, SHA-256, licence where it is known."""


@dataclass(frozen=True)
class EncoderTeacher:
    """A ViT as teacher."""

    encoder: Encoder
    facts: dict[str, Any]
    """For the student's card: source, SHA-256, licence where it is known."""
    precision: TeacherPrecision = "auto"
    """Precision of its attention; see `recipes.distill`."""


@dataclass(frozen=True)
class ClassifierTeacher:
    """A classifier as teacher: any timm network."""

    network: nn.Module
    num_classes: int
    normalisation: Normalisation
    facts: dict[str, Any]
    """For the student's card: source, SHA-256, licence where it is known."""


def load_feature_teacher(source: str, *, like: EncoderConfig) -> FeatureTeacher:
    """Load the plain ViT or ConvNet that `source` names.

    Args:
        source: A run, a model folder, `timm:NAME@FILE` or `untrained:NAME`.
        like: The student; an untrained teacher gets its image size, and a ViT its patch size.

    Raises:
        UsageError: if `source` is empty, missing, or not an encoder.
        CheckpointError: if the weights are damaged, unfinished, or not of the named architecture.
    """
    _require_named(source)
    name, seed = untrained_architecture(source), derive(0, "teacher")
    if name is None:
        saved = load_encoder(source)
        return FeatureTeacher(saved.encoder, _facts(source, {**saved.facts, "sha256": saved.sha256}))
    model = blank_network(name)
    if not isinstance(model, VisionTransformer):
        return FeatureTeacher(untrained_convnet(name, image_size=like.image_size, seed=seed), _facts(source, {}))
    block: Any = require_plain(model, name, layer_scale=False).blocks[0]
    shape = like.changed(
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
    )
    return FeatureTeacher(Encoder(shape, seed=seed), _facts(source, {}))


def load_encoder_teacher(source: str, *, like: EncoderConfig) -> EncoderTeacher:
    """Load the plain ViT that `source` names; see `load_feature_teacher`.

    Raises:
        UsageError, CheckpointError: see there; also if it is a ConvNet.
    """
    found = load_feature_teacher(source, like=like)
    if not isinstance(found.encoder, Encoder):
        raise UsageError(
            f"teacher {printable(source)} is a ConvNet",
            why="The student is to match its attention, and it has none",
            fix=_GIVE,
        )
    return EncoderTeacher(found.encoder, found.facts)


def load_classifier_teacher(source: str, *, num_classes: int) -> ClassifierTeacher:
    """Load the classifier that `source` names, of any timm architecture.

    Args:
        source: A folder in timm's format (or a fine-tuning run), `timm:NAME@FILE` or `untrained:NAME`.
        num_classes: Number of classes C, which must equal the teacher's.

    Raises:
        UsageError: if `source` is empty, missing, or has another number of classes.
        CheckpointError: if the weights are damaged, unfinished, or not of the named architecture.
    """
    _require_named(source)
    facts: dict[str, Any] = {}
    untrained = untrained_architecture(source)
    if untrained is not None:
        model = _create(untrained, num_classes=num_classes)
    else:
        named = Source.parse(source)
        if named.architecture is None:
            model = cast(nn.Module, timm.create_model(f"local-dir:{model_folder(named.path)}", pretrained=True))
        else:
            file = read_weights(named.path)
            model = _create(named.architecture, num_classes=num_classes)
            require_same(
                file.tensors,
                model.state_dict(),
                what=f"{printable(source)} is something else than it is called",
                fix="timm:NAME@FILE with the name of the network that the file is of, with its classes",
            )
            model.load_state_dict(file.tensors)
            facts["sha256"] = file.sha256
    known = cast(int, model.num_classes)
    if known != num_classes:
        raise UsageError(
            f"the teacher knows {known} classes and the data has {num_classes}",
            why="Its predictions are the student's labels, so they must be the same classes in the same order",
            fix="a teacher that was trained on this data",
        )
    values = cast(dict[str, Any], model.pretrained_cfg)
    facts = _facts(source, {"licence": values.get("license"), **facts})
    return ClassifierTeacher(model, num_classes, Normalisation.of_timm(values), facts)


def _require_named(source: str) -> None:
    if not source:
        raise UsageError("this recipe needs a teacher", why="None is named", fix=_GIVE)


def _create(architecture: str, *, num_classes: int) -> nn.Module:
    require_known(architecture)
    with seeded(derive(0, "teacher")):
        return cast(nn.Module, timm.create_model(architecture, pretrained=False, num_classes=num_classes))


def _facts(source: str, known: dict[str, Any]) -> dict[str, Any]:
    shown = str(Source.parse(source).relative()) if untrained_architecture(source) is None else source
    facts = {"source": printable(shown), "licence": known.get("licence") or UNKNOWN}
    return facts | {name: known[name] for name in ("sha256", "init", "teacher") if name in known}
