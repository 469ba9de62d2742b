"""Files of weights and folders of models, as far as they can be judged without reading a tensor. Free of torch."""

import os
import struct
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal

from vitlet.disk import read_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.text import printable, quoted
from vitlet.weights.names import CONFIG, WEIGHTS, Source, is_own, model_folder

CARD = "README.md"
PROOF, PREPROCESSING = "proof.json", "preprocessing.json"
"""Files next to an exported model."""
ONNX, OPENVINO, OPENVINO_WEIGHTS, TORCH = "model.onnx", "model.xml", "model.bin", "model.pt2"
EXPORTED = frozenset({ONNX, OPENVINO, OPENVINO_WEIGHTS, TORCH})
"""Models in other formats than timm's."""

Container = Literal["safetensors", "zip", "pickle"]
_LARGEST_HEADER = 100_000_000


def container_of(path: Path) -> Container:
    """Return what holds the tensors of a file: safetensors, torch.save's zip, or a bare pickle as it wrote before.

    The first bytes decide, not the file name.

    Raises:
        CheckpointError: if it is none of them, cannot be read, or is a pickle that is called safetensors.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise unreadable(path, error) from None
    if _is_safetensors(start):
        return "safetensors"
    is_zip = start.startswith(b"PK\x03\x04")
    if not is_zip and not start.startswith(b"\x80"):
        raise CheckpointError(
            f"{printable(path)} is not a weights file",
            why="Its first bytes are neither those of safetensors nor of torch.save, whatever its name says",
            fix="give a .safetensors, .pth, .pt or .bin file",
        )
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{printable(path)} is a pickle and not safetensors",
            why="Its name promises a file that cannot hold code, and its content is one that can",
            fix="if you expected a pickle, give it a name that ends in .pth",
        )
    return "zip" if is_zip else "pickle"


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file of weights that cannot be read."""
    return CheckpointError(
        f"cannot read {printable(path)}", why=error.strerror or str(error), fix="give a file that may be read"
    )


def _is_safetensors(start: bytes) -> bool:
    if len(start) < 9:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return 2 <= length <= _LARGEST_HEADER and start[8:9] == b"{"


def importable(file: str | os.PathLike[str]) -> Path:
    """Return the path of a file that may be imported.

    Raises:
        CheckpointError: as `container_of`.
        UsageError: for a folder, or the weights of a model of vitlet's, which needs no import.
    """
    source = Source.parse(file).path
    if source.is_dir():
        raise UsageError(
            f"{printable(source)} is a folder",
            why="A file of weights is imported; a run or a model of vitlet needs no import",
            fix=f"--init {quoted(source)} as it is, or the file in it",
        )
    container_of(source)
    return source


def require_replaceable(folder: Path, *, files: Set[str] = frozenset()) -> None:
    """Refuse to replace a folder that is not a model folder: writing a model replaces the whole folder.

    Args:
        folder: Where the model will be written.
        files: Further file names, besides those of timm's format, that a model folder may hold.

    Raises:
        UsageError: if anything but an empty folder or a model folder is there.
    """
    ours = {CONFIG, WEIGHTS, CARD, PROOF, PREPROCESSING} | files
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= ours):
        raise UsageError(
            f"{printable(folder)} is there and not a model folder",
            why="Nothing in it was changed",
            fix="give --out a new folder",
        )


def own_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model folder.

    Raises:
        CheckpointError: if it is missing, or was not written by vitlet.
    """
    config = read_json(folder / CONFIG)
    if not is_own(config):
        raise CheckpointError(
            f"{printable(folder / CONFIG)} was not written by vitlet", fix="vitlet import FILE --out DIR"
        )
    return config


def require_classifier(run: str | os.PathLike[str], *, then: str) -> None:
    """Refuse a run or a model folder without a classifier; whether a bare file has one, only its tensors show.

    Args:
        run: As `Source.parse` takes it.
        then: What to do with the fine-tuned run NEW.

    Raises:
        UsageError: naming the command that trains one.
        CheckpointError: as `model_folder` and `own_config`.
    """
    source = Source.parse(run)
    if source.architecture is None and not own_config(model_folder(source.path))["vitlet"].get("pool"):
        raise no_classifier(run, then=then)


def no_classifier(run: str | os.PathLike[str], *, then: str) -> UsageError:
    """Return the error for a model that has no classifier; see `require_classifier`."""
    return UsageError(
        f"{printable(run)} is an encoder without a classifier",
        fix=f"vitlet finetune RECIPE --init RUN --data LABELLED --out NEW, then {then}",
    )
