"""Loads teachers for distillation: encoders for attention or features, classifiers for logits.

A teacher is named like an initial encoder: a run, a model folder, or `timm:NAME@FILE`. `untrained:NAME` requests timm's
architecture with random weights, as a control. A missing path is an error and never falls back to that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlet.choices import TeacherPrecision
from vitlet.disk import read_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.convnet import AnyEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive
from vitlet.text import printable
from vitlet.weights.content import TENSORS
from vitlet.weights.folder import read_model
from vitlet.weights.kinds import UNKNOWN
from vitlet.weights.names import CONFIG, WEIGHTS, Source, is_own, model_folder, untrained_architecture
from vitlet.weights.reading import read_weights
from vitlet.weights.source import (
    blank_network,
    load_encoder,
    numbered_classes,
    require_known,
    require_plain,
    untrained_convnet,
)
from vitlet.weights.tensors import require_same

_BROKEN = (
    safetensors.SafetensorError, RuntimeError, AssertionError, AttributeError, KeyError, IndexError, TypeError,
    ValueError, OSError,
)  # fmt: skip
"""Exceptions of timm for a folder that is no model, or not the one that its config describes."""
_RANDOM = "none, as its weights are random"
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
    classes: tuple[str, ...] = ()
    """Names of its classes in their order; empty where they are not known."""


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


def load_classifier_teacher(source: str, *, num_classes: int, image_size: int) -> ClassifierTeacher:
    """Load the classifier that `source` names, of any timm architecture.

    Args:
        source: A folder in timm's format (or a fine-tuning run), `timm:NAME@FILE` or `untrained:NAME`.
        num_classes: Number of classes C, which must equal the teacher's.
        image_size: Side of the student's images, in pixels, which the teacher must take.

    Raises:
        UsageError: if `source` is empty, missing, has another number of classes, or takes no images of this size.
        CheckpointError: if the weights are damaged, unfinished, or not of the named architecture.
    """
    _require_named(source)
    untrained = untrained_architecture(source)
    if untrained is not None:
        model, facts = _create(untrained, num_classes=num_classes), {}
    else:
        named = Source.parse(source)
        if named.architecture is None:
            model, facts = _classifier_in(model_folder(named.path))
        else:
            model, facts = _classifier_of(named.path, named.architecture, num_classes=num_classes)
    known = cast(int, model.num_classes)
    if not known:
        raise UsageError(
            f"teacher {printable(source)} has no classifier",
            why="Its predictions are the student's labels",
            fix="a fine-tuning run, or a classifier that was trained on this data",
        )
    if known != num_classes:
        raise UsageError(
            f"the teacher knows {known} classes and the data has {num_classes}",
            why="Its predictions are the student's labels, so they must be the same classes in the same order",
            fix="a teacher that was trained on this data",
        )
    _require_images(model, source, image_size=image_size)
    values = cast(dict[str, Any], model.pretrained_cfg)
    names = values.get("label_names") or ()
    classes = tuple(map(str, names)) if isinstance(names, list | tuple) and len(names) == num_classes else ()
    return ClassifierTeacher(model, num_classes, Normalisation.of_timm(values), _facts(source, facts), classes)


def require_same_classes(taught: tuple[str, ...], classes: tuple[str, ...], *, source: str) -> str:
    """Refuse a teacher whose classes are not the data's, in their order; return a note where nobody can tell.

    Args:
        taught: Names of the teacher's classes; empty if they are not known, and numbers are no names.
        classes: Those of the data.
        source: The teacher's name; the order of an untrained one is nothing to tell.

    Raises:
        UsageError: naming the first class that differs.
    """
    if untrained_architecture(source) is not None or taught == classes:
        return ""
    if not taught or taught == numbered_classes(len(taught)):
        return (
            f"teacher {printable(source)} does not name its classes, so nobody can check that they are those of the "
            "data in the same order"
        )
    at = next((i for i, (theirs, ours) in enumerate(zip(taught, classes, strict=False)) if theirs != ours), 0)
    raise UsageError(
        f"teacher {printable(source)} has "
        + ("the classes in another order" if set(taught) == set(classes) else "other classes than the data"),
        why=f"Its predictions are the student's labels, and class {at} is {printable(taught[at])} there and "
        f"{printable(classes[at])} in the data",
        fix="a teacher that was trained on this data; or, if only the names differ, those of the data in label_names "
        "of its config.json",
    )


def _require_named(source: str) -> None:
    if not source:
        raise UsageError("this recipe needs a teacher", why="None is named", fix=_GIVE)


def _create(architecture: str, *, num_classes: int) -> nn.Module:
    require_known(architecture)
    with seeded(derive(0, "teacher")):
        return cast(nn.Module, timm.create_model(architecture, pretrained=False, num_classes=num_classes))


def _classifier_of(file: Path, architecture: str, *, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of weights as timm's network; its licence is timm's if the name has the tag of weights."""
    found, model = read_weights(file), _create(architecture, num_classes=num_classes)
    require_same(
        found.tensors,
        model.state_dict(),
        what=f"timm:{architecture}@{printable(file)} is something else than it is called",
        fix="timm:NAME@FILE with the name of the network that the file is of, with its classes",
    )
    model.load_state_dict(found.tensors)
    values = cast(dict[str, Any], model.pretrained_cfg)
    return model, {"licence": values.get("license") if "." in architecture else None, "sha256": found.sha256}


def _classifier_in(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model folder of vitlet's, verified, or anybody's in timm's format, whose weights are hashed."""
    facts: dict[str, Any]
    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    if is_own(config):
        saved = read_model(folder)
        facts = {**saved.facts, "sha256": saved.sha256}
    else:
        file = next((f for f in (file, *sorted(folder.iterdir())) if f.is_file() and f.suffix in TENSORS), None)
        if file is None:
            raise CheckpointError(f"no weights in {printable(folder)}", fix=f"give a folder with {WEIGHTS}")
        facts = {"sha256": read_weights(file).sha256}
    try:
        told = {"source": "", "file": str(file)}
        model = cast(nn.Module, timm.create_model(f"local-dir:{folder}", pretrained=True, pretrained_cfg_overlay=told))
    except _BROKEN as error:
        raise CheckpointError(
            f"{printable(folder)} is no model that timm opens",
            why=printable(str(error).strip().split("\n")[0] or type(error).__name__)[:200],
            fix="give a folder in timm's format, whole, or timm:NAME@FILE",
        ) from None
    if not is_own(config):
        facts["licence"] = cast(dict[str, Any], model.pretrained_cfg).get("license")
    return model, facts


def _require_images(model: nn.Module, source: str, *, image_size: int) -> None:
    """Require that the network takes images of the student's size, by showing it a black one."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"teacher {printable(source)} takes no images of {image_size} px, which the student is shown",
            why=printable(str(error).strip().split("\n")[0])[:200],
            fix=f"a teacher for images of {image_size} px, or a recipe for images of the teacher's size",
        ) from None


def _facts(source: str, known: dict[str, Any]) -> dict[str, Any]:
    if untrained_architecture(source) is not None:
        return {"source": printable(source), "licence": _RANDOM}
    facts = {"source": printable(str(Source.parse(source).relative())), "licence": known.get("licence") or UNKNOWN}
    return facts | {name: known[name] for name in ("sha256", "init", "teacher") if name in known}
