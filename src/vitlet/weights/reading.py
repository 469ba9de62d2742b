"""Weights files of others, read without running anything that is in them.

What a file is, its first bytes say, not its name. Of a pickle only tensors, plain Python containers and
`argparse.Namespace` (which MAE's and timm's training scripts put beside their weights) are rebuilt; anything else is
named and refused, and there is no option that changes it.
"""

import argparse
import hashlib
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vitlet.errors import CheckpointError, UsageError
from vitlet.text import plural, printable

_LARGEST_HEADER = 100_000_000
_PLAIN: list[Any] = [argparse.Namespace]
_WRAPPERS = ("model", "state_dict", "teacher", "student", "model_ema", "state_dict_ema")
"""Where training scripts put their weights, the one to take first; of DINO's two networks the teacher, which is the one
its authors use, and of weights and their average over training the weights."""
# What the unpickler raises over bytes that were cut, swapped or made up.
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, TypeError, KeyError,
    AttributeError, IndexError, AssertionError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """Tensors of a file by their names in it."""

    tensors: dict[str, Tensor]
    wrapper: str
    """The entry they were found under; empty for a bare file of tensors."""
    beside: tuple[str, ...]
    """Names of the other entries: which script wrote the file shows in them."""
    sha256: str
    siblings: tuple[str, ...] = ()
    """Entries among them that hold tensors of the same names: a moving average, a student."""


def read_weights(path: Path, *, entry: str | None = None) -> WeightsFile:
    """All tensors of a `.safetensors`, `.pth`, `.pt`, `.pth.tar` or `.bin` file.

    Args:
        path: The file.
        entry: Under which of its entries; None takes the first of those where training scripts put weights.

    Raises:
        UsageError: if there is no such entry.
        CheckpointError: if it is missing, cut short, of another format, holds no tensors, or would run code.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {printable(path)}", why=error.strerror or str(error), fix="give a file that may be read"
        ) from None
    if _is_safetensors(start):
        if entry is not None:
            raise UsageError(f"{printable(path)} has no entries", why="safetensors hold one table", fix="no --entry")
        return WeightsFile(_load_safetensors(path), "", (), sha256)
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
    content = _load_pickle(path, is_zip=is_zip)
    return _unwrapped(content, path, sha256, entry=entry)


def _is_safetensors(start: bytes) -> bool:
    if len(start) < 9:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return 2 <= length <= _LARGEST_HEADER and start[8:9] == b"{"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _load_pickle(path: Path, *, is_zip: bool) -> Any:
    _refuse_code(path, is_zip=is_zip)
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        # Torch's own text recommends to switch the protection off; only the name of what it met is passed on.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise _damaged(path, ValueError("its pickle has instructions that no table of tensors needs")) from None
        raise _unsafe(path, [named[1]]) from None
    except _BROKEN as error:
        raise _damaged(path, error) from None


def _refuse_code(path: Path, *, is_zip: bool) -> None:
    """Name everything that a pickle would import, before it is read."""
    if not is_zip:
        return  # older files are not listed; the loader stops at the first such name
    try:
        with torch.serialization.safe_globals(_PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except _BROKEN as error:
        raise _damaged(path, error) from None
    if names:
        raise _unsafe(path, names)


def _unsafe(path: Path, names: list[str]) -> CheckpointError:
    listed = ", ".join(printable(name) for name in sorted(names)[:10])
    return CheckpointError(
        f"{printable(path)} holds more than weights",
        why=f"Reading it would import {listed}"
        + (f" and {len(names) - 10} others" if len(names) > 10 else "")
        + ", and a pickle can run what it imports",
        fix="ask its authors for a safetensors file, or for a checkpoint of tensors alone",
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{printable(path)} is damaged or cut short", why=printable(first)[:200], fix="copy or download it again"
    )


def _unwrapped(content: Any, path: Path, sha256: str, *, entry: str | None) -> WeightsFile:
    tables: dict[str, dict[str, Tensor]] = {}
    if isinstance(content, dict):
        tables = {str(key): found for key, value in content.items() if (found := _tensors(value))}
        if entry is not None and entry not in tables:
            raise UsageError(
                f"no weights under {printable(entry)} in {printable(path)}",
                fix=f"--entry {' or '.join(map(printable, tables))}" if tables else "no --entry",
            )
        wrapper = entry or next((name for name in _WRAPPERS if name in tables), None)
        if wrapper is not None:
            tensors = tables.pop(wrapper)
            beside = tuple(str(key) for key in content if key != wrapper)
            siblings = tuple(name for name, others in tables.items() if _alike(tensors, others))
            return WeightsFile(tensors, wrapper, beside, sha256, siblings)
        tensors = _tensors(content)
        if tensors:
            return WeightsFile(tensors, "", tuple(str(key) for key in content if key not in tensors), sha256)
    keys = ", ".join(printable(str(key)) for key in list(content)[:8]) if isinstance(content, dict) else ""
    raise CheckpointError(
        f"no weights in {printable(path)}",
        why=f"It holds {plural(len(content), 'entry', 'entries')}: {keys}" if keys else "It is not a table of tensors",
        fix=f"--entry {' or '.join(map(printable, tables))}" if tables else "give the file that holds a state_dict",
    )


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(key, str) and isinstance(entry, Tensor)}


def _alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two tables hold one network, as far as most of their names say."""
    one, other = ({name.removeprefix("module.") for name in table} for table in (first, second))
    return 2 * len(one & other) > len(one)
