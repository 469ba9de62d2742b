"""Tensor files: verified by a SHA-256 stored elsewhere, and compared with a network's tensors before loading."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from vitlet.errors import CheckpointError
from vitlet.text import plural, printable

_SHOWN = 5


def sealed(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Return the bytes of a safetensors file and their SHA-256 for the config: safetensors has no checksum."""
    content = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata={"format": "pt"}
    )
    return content, hashlib.sha256(content).hexdigest()


def unsealed(file: Path, *, sha256: str) -> dict[str, Tensor]:
    """Read a file that `sealed` made.

    Raises:
        CheckpointError: if the file is missing or differs in any byte.
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
    """Refuse tensors whose names and shapes are not exactly those of a network.

    Args:
        there: The tensors read.
        here: The network's tensors, as `state_dict()` returns them.
        what: Start of the error message, such as "FILE does not fit this network".
        fix: Remedy shown in the error message.
        types: Compare dtypes too; otherwise an fp16 file may fill an fp32 network.

    Raises:
        CheckpointError: naming the first tensors that differ, with both versions.
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
