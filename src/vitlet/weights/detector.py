"""What a detector has above its encoder, as a folder: `model.safetensors` and `config.json`.

The encoder stands in a folder of its own, which timm opens; the recipe of the run says how the two are put together.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from vitlet.disk import read_json, to_json_bytes, write_folder
from vitlet.errors import CheckpointError
from vitlet.text import plural, printable

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Labels:
    """What a detector tells apart."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """What the training data called each class."""


def write_detector(path: Path, detector: nn.Module, *, labels: Labels, facts: dict[str, Any]) -> None:
    """Write the folder, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    config = {
        "classes": list(labels.classes),
        "category_ids": list(labels.category_ids),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "facts": facts,
    }
    write_folder(path, {_WEIGHTS: weights, _CONFIG: to_json_bytes(config)})


def read_labels(path: Path) -> Labels:
    """What the detector in a folder tells apart.

    Raises:
        CheckpointError: if there is no folder that `write_detector` wrote.
    """
    if not (path / _CONFIG).is_file():
        raise CheckpointError(
            f"no finished detector at {printable(path)}", fix="vitlet resume RUN finishes a run of a detection recipe"
        )
    config = read_json(path / _CONFIG)
    return Labels(tuple(config["classes"]), tuple(config["category_ids"]))


def load_detector(path: Path, detector: nn.Module) -> None:
    """Put the tensors of a folder into `detector`, all of them or none.

    Raises:
        CheckpointError: if the file is missing or altered, or has other tensors.
    """
    content = (path / _WEIGHTS).read_bytes() if (path / _WEIGHTS).is_file() else b""
    if hashlib.sha256(content).hexdigest() != read_json(path / _CONFIG).get("sha256"):
        raise CheckpointError(f"{printable(path / _WEIGHTS)} is missing or damaged", why="its SHA-256 is another")
    there = safetensors.torch.load(content)
    here = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in there.items()}
    differing = sorted(k for k in here.keys() | shapes.keys() if here.get(k) != shapes.get(k))
    if differing:
        raise CheckpointError(
            f"{printable(path / _WEIGHTS)} does not fit this detector",
            why=f"Differing: {plural(len(differing), 'tensor')}, such as {differing[0]}",
        )
    detector.load_state_dict(there)
