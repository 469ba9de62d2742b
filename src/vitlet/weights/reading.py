"""Reads third-party weights files without executing anything in them.

From a pickle only tensors, plain Python containers and `argparse.Namespace` (which MAE's and timm's training scripts
save next to their weights) are loaded; anything else is named and refused, and no option changes this.
"""

import argparse
import hashlib
import pickle
import re
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
from vitlet.weights.files import container_of, unreadable

_PLAIN: list[Any] = [argparse.Namespace]
_WRAPPERS = ("model", "state_dict", "teacher", "student", "model_ema", "state_dict_ema")
"""Entries in which training scripts save weights, in order of preference: DINO's teacher, which its authors use, before
the student, and weights before their moving average."""
# Exceptions of the unpickler for truncated, corrupted or forged bytes.
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, TypeError, KeyError,
    AttributeError, IndexError, AssertionError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """Tensors of a file by name."""

    tensors: dict[str, Tensor]
    wrapper: str
    """The entry that held them; empty if they were at the top level."""
    beside: tuple[str, ...]
    """Names of the other entries, which show what script wrote the file."""
    sha256: str
    siblings: tuple[str, ...] = ()
    """Those of them that hold tensors of the same names, such as a moving average or a student."""


def read_weights(path: Path, *, entry: str | None = None) -> WeightsFile:
    """Read the tensors of a `.safetensors`, `.pth`, `.pt`, `.pth.tar` or `.bin` file.

    Args:
        path: The file.
        entry: The entry that holds them; None takes the first entry in which training scripts usually save weights.

    Raises:
        UsageError: if there is no such entry.
        CheckpointError: if the file is missing, truncated, of another format, without tensors, or would run code.
    """
    container = container_of(path)
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None
    if container == "safetensors":
        if entry is not None:
            raise UsageError(f"{printable(path)} has no entries", why="safetensors hold one table", fix="no --entry")
        return WeightsFile(_load_safetensors(path), "", (), sha256)
    content = _load_pickle(path, is_zip=container == "zip")
    return _unwrapped(content, path, sha256, entry=entry)


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
        # torch's own message recommends disabling the protection; pass on only the name of the offending import.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise _damaged(path, ValueError("its pickle has instructions that no table of tensors needs")) from None
        raise _unsafe(path, [named[1]]) from None
    except _BROKEN as error:
        raise _damaged(path, error) from None


def _refuse_code(path: Path, *, is_zip: bool) -> None:
    """Refuse a pickle with unsafe imports before loading it, and name them."""
    if not is_zip:
        return  # imports of the legacy format cannot be listed; the loader stops at the first unsafe one
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
    """Whether two tables hold the same network, judged by whether most of their names agree."""
    one, other = ({name.removeprefix("module.") for name in table} for table in (first, second))
    return 2 * len(one & other) > len(one)
