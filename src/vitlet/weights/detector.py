"""Detector weights without the encoder, as a folder with `model.safetensors` and `config.json`.

The encoder has its own folder, in timm's format; the recipe of the run describes how the two are combined.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitlet.disk import read_json, to_json_bytes, write_folder
from vitlet.errors import CheckpointError
from vitlet.nn.detection.detector import Detector
from vitlet.text import plural, printable
from vitlet.weights.card import card
from vitlet.weights.folder import Saved, shape_of
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.preprocessing import remark
from vitlet.weights.tensors import require_same, sealed, unsealed


@dataclass(frozen=True)
class Labels:
    """Classes of a detector."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """Identifiers of the classes in the training data."""


@dataclass(frozen=True)
class SavedDetector(Saved):
    """The encoder of a detection run, and the detector on it; `classes` are those of the detector."""

    detector: Detector
    category_ids: tuple[int, ...]
    """Identifiers of the classes in the training data."""


def write_detector(path: Path, detector: nn.Module, *, labels: Labels, facts: dict[str, Any]) -> None:
    """Write the folder atomically."""
    weights, sha256 = sealed(detector.state_dict())
    config = {
        "classes": list(labels.classes),
        "category_ids": list(labels.category_ids),
        "sha256": sha256,
        "facts": facts,
    }
    write_folder(path, {WEIGHTS: weights, CONFIG: to_json_bytes(config)})


def read_labels(path: Path) -> Labels:
    """Read the classes of the detector in a folder.

    Raises:
        CheckpointError: if `path` was not written by `write_detector`.
    """
    if not (path / CONFIG).is_file():
        raise CheckpointError(
            f"no finished detector at {printable(path)}", fix="vitlet resume RUN finishes a run of a detection recipe"
        )
    config = read_json(path / CONFIG)
    return Labels(tuple(config["classes"]), tuple(config["category_ids"]))


def load_detector(path: Path, detector: nn.Module) -> None:
    """Load the tensors of a folder into `detector`: all of them or none.

    Raises:
        CheckpointError: if the file is missing or altered, or its tensors do not match.
    """
    tensors = unsealed(path / WEIGHTS, sha256=read_json(path / CONFIG).get("sha256", ""))
    require_same(
        tensors, detector.state_dict(), what=f"{printable(path / WEIGHTS)} does not fit the detector of this recipe"
    )
    detector.load_state_dict(tensors)


def detector_card(saved: SavedDetector, *, target: str, results: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    """Return the card of an exported detector; see `weights.card`."""
    shape = saved.detector.shape
    sizes = f"{shape.proposals} regions, {shape.most_detections} objects at most, scores over {shape.score_threshold:g}"
    operators = " Import torchvision before opening it, for its operators." if target == "torch-export" else ""
    seen = remark(saved.evaluation, saved.encoder.normalisation, target=target)
    family = "Mask" if shape.masks else "Faster"
    return card(
        title=f"Vision transformer, detector of {plural(len(saved.classes), 'class', 'classes')}",
        description=f"{family} R-CNN. {shape_of(saved.encoder)}; {sizes}. It takes one image.{operators} {seen}",
        tags=("image-segmentation" if shape.masks else "object-detection", "vision-transformer", "vitlet"),
        facts=saved.facts,
        target=target,
        results=results,
        proof=proof,
    )
