"""Tensors in files: sealed by a SHA-256 that stands elsewhere, and compared with a network's before any is loaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from vitlet.errors import CheckpointError
from vitlet.text import plural, printable

_SHOWN = 5


def sealed(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """The bytes of a safetensors file, and their SHA-256 for the config beside it: safetensors has no checksum."""
    content = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata={"format": "pt"}
    )
    return content, hashlib.sha256(content).hexdigest()


def unsealed(file: Path, *, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file that `sealed` made.

    Raises:
        CheckpointError: if it is missing or is not to the byte what was written.
    """
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f"{printable(file)} is missing or damaged",
            why="its SHA-256 is not the one in config.json",
            fix="restore the folder from a copy, or train or import the model again",
        )
    return safetensors.torch.load(content)


def require_same(
    there: Mapping[str, Tensor], here: Mapping[str, Tensor], *, what: str, fix: str = "", types: bool = False
) -> None:
    """Refuse tensors unless each of them has a counterpart of the same name and shape, and none is missing.

    Args:
        there: What was read.
        here: What it is for, as `state_dict()` gives it.
        what: The opening of the message, such as "FILE does not fit this network".
        fix: What to do about it.
        types: Compare the numbers' types too; without, a file of fp16 may fill a network of fp32.

    Raises:
        CheckpointError: naming the first tensors that differ, as they are there and here.
    """
    theirs = {name: _form(value, types) for name, value in there.items()}
    ours = {name: _form(value, types) for name, value in here.items()}
    names = theirs.keys() | ours.keys()
    differing = sorted(name for name in names if theirs.get(name) != ours.get(name))
    if not differing:
        return
    shown = "; ".join(
        f"{printable(name)}: {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here"
        for name in differing[:_SHOWN]
    )
    verb = "differs" if len(differing) == 1 else "differ"
    raise CheckpointError(what, why=f"{plural(len(differing), 'tensor')} of {len(names):,} {verb}: {shown}", fix=fix)


def _form(value: Tensor, types: bool) -> str:
    shape = str(tuple(value.shape))
    return f"{str(value.dtype).removeprefix('torch.')} {shape}" if types else shape
