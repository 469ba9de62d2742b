"""Names of networks on the command line: a run, a model folder, or `timm:NAME@FILE`. Free of torch.

A teacher may also be `untrained:NAME`, timm's architecture with random weights, as a control.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlet.disk import existing, read_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.run import spelled_out
from vitlet.text import printable, quoted

_SCHEME, _UNTRAINED = "timm:", "untrained:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Source:
    """Weights on disk."""

    path: Path
    architecture: str | None = None
    """timm's name for the network in the file at `path`; None for a run or a model folder, which record their own."""

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> "Source":
        """Parse a name; the weights in a model folder of vitlet's stand for the folder, which says what they are.

        Raises:
            UsageError: if nothing is there, or timm's weights are named without a file.
            CheckpointError: for a `model.safetensors` beside which `config.json` is damaged.
        """
        word = os.fspath(text)
        architecture, path = None, word
        if word.startswith(_SCHEME):
            architecture, at, path = word.removeprefix(_SCHEME).partition("@")
            if not (architecture and at and path):
                raise UsageError(
                    f"{printable(word)} does not name a file",
                    why="Nothing is downloaded, so the weights must be on the disk",
                    fix="timm:NAME@FILE, for example timm:vit_tiny_patch16_224@model.safetensors",
                )
        found = existing(Path(path).expanduser())
        config = found.parent / CONFIG
        if architecture is None and found.name == WEIGHTS and config.is_file() and is_own(read_json(config)):
            found = found.parent
        return cls(found, architecture)

    def require_model(self) -> None:
        """Refuse a source that cannot be a model, without reading weights.

        Raises:
            UsageError: for a file without an architecture, or a folder with one.
            CheckpointError: see `model_folder`.
        """
        is_file, shown = self.path.is_file(), printable(self.path)
        if self.architecture is None and is_file:
            raise UsageError(
                f"{shown} is a file",
                why="Tensors alone do not show the number of heads and the normalisation of pixels",
                fix=f"vitlet import {quoted(self.path)} --out DIR and give DIR; or {quoted(f'timm:NAME@{self.path}')}",
            )
        if self.architecture is None:
            model_folder(self.path)
        elif not is_file:
            raise UsageError(f"{shown} is a folder", why="timm:NAME@FILE names a file", fix=f"{shown} without timm:")

    def absolute(self) -> "Source":
        """Return the source with an absolute path."""
        return Source(spelled_out(self.path), self.architecture)

    def relative(self) -> "Source":
        """Return the source relative to the working directory, without the names of folders above it."""
        return Source(Path(os.path.relpath(self.path)), self.architecture)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.architecture}@{self.path}" if self.architecture else str(self.path)


def untrained_architecture(teacher: str) -> str | None:
    """Return NAME of `untrained:NAME`; None for any other teacher."""
    return teacher.removeprefix(_UNTRAINED) if teacher.startswith(_UNTRAINED) else None


def is_own(config: Any) -> bool:
    """Return whether vitlet wrote a model's `config.json`, of which this is the content."""
    return isinstance(config, dict) and isinstance(config.get("vitlet"), dict)


def model_folder(path: str | os.PathLike[str]) -> Path:
    """Return the model folder that `path` is, or that the run at `path` contains.

    Raises:
        CheckpointError: if there is none; there is no fallback to random weights.
    """
    for folder in (Path(path) / "encoder", Path(path)):
        if (folder / CONFIG).is_file():
            return folder
    raise CheckpointError(
        f"no finished encoder at {printable(path)}",
        why="neither encoder/config.json nor config.json is there",
        fix="give a finished run (vitlet resume RUN finishes it) or a model folder",
    )
