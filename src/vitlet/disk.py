"""Atomic files and folders: they appear complete or not at all, and failures of the disk are reported.

They are written under a temporary name in the same place, flushed to disk and renamed, and the parent is flushed:
after a kill or a loss of power a name refers to either the old content or the new.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vitlet.errors import CheckpointError, ResourceError, UsageError
from vitlet.text import did_you_mean, printable

_LISTED = 10_000
"""Names of a folder that are looked through for a near one: millions would take minutes."""
TEMPORARY = ".tmp-"
DELETED = ".del-"
REPLACED = ".old-"


def existing(path: Path) -> Path:
    """`path`, if a file or folder is there.

    Raises:
        UsageError: else, naming a near one; also for a name that no file system takes, and for pipes and devices, which
            might never answer.
    """
    if not os.path.exists(path):
        raise UsageError(f"no file or folder {printable(path)}", why=nearest(path), fix="check the path")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"{printable(path)} is a pipe, a socket or a device", fix="give a file or a folder")
    return path


def nearest(path: Path) -> str:
    """The sentence that says what of a path is missing, and which name is near; empty where nothing can be said."""
    try:
        full = path.absolute()
        parent = next(folder for folder in full.parents if folder.is_dir())
        lost = full.relative_to(parent).parts[0]
        with os.scandir(parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, _LISTED) if entry.name[:1] != "."]
        near = did_you_mean(lost, names)
    except (OSError, ValueError, StopIteration):
        return ""
    missing = f"{printable(parent)} holds no {printable(lost)}"
    return f"{missing}. {printable(near)}" if near.startswith("Did you mean") else missing


def read_json(path: Path) -> Any:
    """Parse a JSON file written by vitlet.

    Raises:
        CheckpointError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"missing file {printable(path)}", fix="check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{printable(path)} is not JSON", why=str(error), fix="restore it from a copy") from None


def to_json_bytes(value: Any) -> bytes:
    """Strict JSON (no NaN), indented, with a final newline."""
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


def finite_or_null(value: Any) -> Any:
    """Replace every NaN and infinity in `value` by None, since JSON cannot represent them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite_or_null(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(v) for v in value]
    return value


def write_file(path: Path, content: bytes | Iterable[bytes], *, num_bytes: int | None = None) -> None:
    """Replace `path` by `content`, durably and atomically: a reader sees the old file or the new one.

    Args:
        path: The file.
        content: The bytes, or an iterable of parts.
        num_bytes: Approximate total of the parts, for the error message.

    Raises:
        ResourceError: if the disk is full or read-only; whatever was at `path` is still there.
    """
    temporary = temporary_place(path.parent, path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a process of the same number that was killed
        _write_durably(temporary, [content] if isinstance(content, bytes) else content)
        os.rename(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be gone
            temporary.unlink()
        raise storage_error(error, path, len(content) if isinstance(content, bytes) else num_bytes or 0) from error


def write_json(path: Path, value: Any) -> None:
    """Call `write_file` with strict JSON."""
    write_file(path, to_json_bytes(value))


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with `files`, durably; either all of them appear or none.

    An existing folder is replaced. Since a non-empty folder cannot be renamed over, the name is missing for the moment
    between two renames; a kill in just that moment leaves the old folder under a temporary name, and `sweep` restores
    it.

    Raises:
        ResourceError: if the disk is full or read-only; whatever was at `path` is still there.
    """
    temporary = temporary_place(path.parent, path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        for name, content in files.items():
            _write_durably(temporary / name, [content])
        flush_folder(temporary)
        _move_into_place(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(error, path, sum(map(len, files.values()))) from error


def _move_into_place(temporary: Path, path: Path) -> None:
    replaced = path.parent / f"{REPLACED}{path.name}"
    if path.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        os.rename(path, replaced)
    try:
        os.rename(temporary, path)
    except OSError:
        if replaced.exists():
            os.rename(replaced, path)
        raise
    flush_folder(path.parent)
    if replaced.exists():
        remove_folder(replaced)


def remove_folder(path: Path) -> None:
    """Remove a folder such that a kill in between never leaves half of it under its name.

    Raises:
        ResourceError: if the disk does not allow it.
    """
    doomed = path.parent / f"{DELETED}{os.getpid()}-{path.name}"
    try:
        os.rename(path, doomed)
        flush_folder(path.parent)
        shutil.rmtree(doomed)
    except OSError as error:
        raise storage_error(error, path, 0) from error


def temporary_place(parent: Path, name: str) -> Path:
    """Where this process writes what is to appear complete in `parent`; `sweep_abandoned` knows whose it is."""
    return parent / f"{TEMPORARY}{os.getpid()}-{_host()}-{name}"


def sweep_abandoned(folder: Path) -> None:
    """Delete what processes of this host that are gone had begun in `folder`, where no lock keeps others out."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        number, _, rest = leftover.name.removeprefix(TEMPORARY).partition("-")
        if rest.startswith(f"{_host()}-") and number.isdecimal() and not _runs(int(number)):
            with contextlib.suppress(OSError):  # another process may be faster
                _remove(leftover)


def sweep(folder: Path) -> None:
    """Repair or delete what killed writers left behind in `folder`; call only under the run's lock."""
    for leftover in list(folder.iterdir()) if folder.is_dir() else ():
        name = leftover.name
        if name.startswith(REPLACED) and not (folder / name.removeprefix(REPLACED)).exists():
            os.rename(leftover, folder / name.removeprefix(REPLACED))
        elif name.startswith((TEMPORARY, DELETED, REPLACED)):
            _remove(leftover)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _remove(leftover: Path) -> None:
    shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


def flush_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(path: Path, parts: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable"
)


def storage_error(error: OSError, path: Path, needed: int) -> ResourceError:
    """Explain a failed write, with the space needed and the space available."""
    if error.errno == errno.ENOENT:
        return ResourceError(
            f"cannot write {printable(path)}",
            why="Its folder was removed or renamed meanwhile",
            fix="bring it back and give the command again, or start anew with another --out",
        )
    try:
        folder = next(p for p in (path.parent, *path.parent.parents) if p.exists())
        free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except (OSError, StopIteration):
        free = "free space unknown"
    remedy = _REMEDIES.get(error.errno or 0, "see to the disk")
    return ResourceError(
        f"cannot write {printable(path)}",
        why=f"{error.strerror or error}: {needed / 1e6:,.1f} MB needed, {free}. What stood there before still does",
        fix=f"{remedy}, then give the command again (vitlet resume RUN for a run)",
    )
