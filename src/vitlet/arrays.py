"""Files of named arrays (`.npz`): written as atomically as every other file, and read without ever unpickling."""

import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from vitlet.disk import write_file
from vitlet.errors import CheckpointError
from vitlet.text import printable


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace `path` by the compressed arrays.

    Raises:
        ResourceError: if the disk is full or read-only; whatever was at `path` is still there.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    write_file(path, stream.getvalue())


def read_arrays(path: Path, *, needed: Collection[str] = (), fix: str) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Args:
        path: The file.
        needed: Names that it must hold.
        fix: What to do about a damaged file, for the error message.

    Raises:
        CheckpointError: if the file is missing or damaged, or lacks an array.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{printable(path)} cannot be read", why=str(error), fix=fix) from None
    if missing := sorted(set(needed) - arrays.keys()):
        raise CheckpointError(f"{printable(path)} lacks the arrays {', '.join(missing)}", fix=fix)
    return arrays
