"""Content hashes of models and of teachers, independent of their paths."""

import hashlib
import json
from pathlib import Path

from vitlet.disk import read_json
from vitlet.errors import CheckpointError
from vitlet.recipe import ObjectiveConfig
from vitlet.text import printable
from vitlet.weights.names import CONFIG, Source, model_folder, untrained_architecture

TENSORS = (".safetensors", ".bin", ".pth")
"""Weights in timm's folders, which vitlet need not have written."""


def file_content(file: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_content(path: Path) -> str:
    """Return the SHA-256 (hex) of a model's tensors and `config.json`, without provenance.

    Tensors alone do not determine the function: the same ones give different outputs with 3 heads and with 12.

    Raises:
        CheckpointError: if there is no model at `path`.
    """
    folder = model_folder(path)
    config = read_json(folder / CONFIG)
    if isinstance(ours := config.get("vitlet"), dict):
        config["vitlet"] = {name: value for name, value in ours.items() if name != "facts"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(f for f in folder.iterdir() if f.suffix in TENSORS):
        digest.update(f" {file.name} {file_content(file)}".encode())
    return digest.hexdigest()


def teacher_content(objective: ObjectiveConfig) -> str:
    """Return an identifier of a method's teacher that changes with any of its weights and settings.

    Empty without a teacher, and for an untrained one, which its name in the recipe fully determines.

    Raises:
        UsageError, CheckpointError: if there is no teacher at the given path.
    """
    source = objective.teacher_source
    if not source or untrained_architecture(source) is not None:
        return ""
    named = Source.parse(source)
    if named.architecture is None:
        return folder_content(named.path)
    return f"{named.architecture} {file_content(named.path)}"


def require_same_teacher(objective: ObjectiveConfig, content: str) -> None:
    """Refuse to resume a run with a teacher other than the one it began with.

    Args:
        objective: The method, which names the teacher.
        content: `teacher_content` when the run began; empty if it was not recorded.

    Raises:
        CheckpointError: if the weights there have changed or are gone.
    """
    if content and teacher_content(objective) != content:
        raise CheckpointError(
            f"{printable(objective.teacher_source or '')} is not the teacher that the run began with",
            why="It was trained again or replaced since",
            fix="restore the old one, or give the command that began the run again, with --fresh",
        )
