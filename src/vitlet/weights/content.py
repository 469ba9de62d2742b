"""Weights known by what they are and not by where they stand: of a model folder, and of the teacher of a method."""

import hashlib
import json
from pathlib import Path

from vitlet.disk import read_json
from vitlet.errors import CheckpointError
from vitlet.recipe import ObjectiveConfig
from vitlet.text import printable
from vitlet.weights.names import CONFIG, Source, model_folder
from vitlet.weights.teacher import UNTRAINED

_TENSORS = (".safetensors", ".bin")
"""Of timm's folders, which need not be ours."""


def file_content(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_content(path: Path) -> str:
    """SHA-256 (hex) of a model folder as a function: its tensors, and what `config.json` makes of them.

    Tensors alone do not say it: the same ones give other outputs with 3 heads than with 12. Provenance is left out.

    Raises:
        CheckpointError: if there is no model at `path`.
    """
    folder = model_folder(path)
    config = read_json(folder / CONFIG)
    if isinstance(ours := config.get("vitlet"), dict):
        config["vitlet"] = {name: value for name, value in ours.items() if name != "facts"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(f for f in folder.iterdir() if f.suffix in _TENSORS):
        digest.update(f" {file.name} {file_content(file)}".encode())
    return digest.hexdigest()


def teacher_content(objective: ObjectiveConfig) -> str:
    """The teacher that a method learns from: changes with any weight and setting of it.

    Empty without a teacher, and for an untrained one, whose name in the recipe says all.

    Raises:
        UsageError, CheckpointError: if none is where it is said to be.
    """
    source = _teacher_of(objective)
    if not source or source.startswith(UNTRAINED):
        return ""
    named = Source.parse(source)
    if named.architecture is None:
        return folder_content(named.path)
    return f"{named.architecture} {file_content(named.path)}"


def require_same_teacher(objective: ObjectiveConfig, content: str) -> None:
    """Refuse to go on with another teacher than a run began with.

    Args:
        objective: Names the teacher.
        content: `teacher_content` when the run began; empty where nobody wrote it down.

    Raises:
        CheckpointError: if other weights stand there now, or none.
    """
    if content and teacher_content(objective) != content:
        raise CheckpointError(
            f"{printable(_teacher_of(objective) or '')} is not the teacher that the run began with",
            why="It was trained again or replaced since",
            fix="bring the old one back, or start anew with --fresh",
        )


def _teacher_of(objective: ObjectiveConfig) -> str | None:
    return getattr(objective, "teacher", None)  # what every method that has one calls it
