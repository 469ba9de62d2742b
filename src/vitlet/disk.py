"""Atomic files and folders: they appear complete or not at all, and failures of the disk are reported.

They are written under a temporary name in the same place, flushed to disk and renamed, and the parent is flushed:
after a kill or a loss of power a name refers to either the old content or the new.
"""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlet.errors import CheckpointError, ResourceError, UsageError
from vitlet.json_objects import JsonObject, parse_json
from vitlet.text import csv_cell, did_you_mean, printable

_LISTED = 10_000
"""Number of names in a folder that are searched for a similar one; millions would take minutes."""
TEMPORARY = ".tmp-"
DELETED = ".del-"
REPLACED = ".old-"


def existing(path: Path) -> Path:
    """Return `path` if a file or folder is there.

    Raises:
        UsageError: if nothing is there, with a similar name if there is one, or if no file system allows the name; also
            for pipes and devices, since reading them might never end.
    """
    if not os.path.exists(path):
        raise UsageError(f"no file or folder {printable(path)}", why=nearest(path), fix="check the path")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UsageError(f"{printable(path)} is a pipe, a socket or a device", fix="give a file or a folder")
    return path


def nearest(path: Path) -> str:
    """Return a sentence on which part of a path is missing and which name is similar; empty if neither is known."""
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
    """Parse a JSON file written by vitlet; see `parse_json`.

    Raises:
        CheckpointError: if it is missing or not JSON.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise CheckpointError(f"missing file {printable(path)}", fix="check the path") from None


def read_object(path: Path) -> JsonObject:
    """`read_json` of a file that holds an object.

    Raises:
        CheckpointError: also if it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, JsonObject):
        raise CheckpointError(f"{printable(path)} holds no JSON object", fix="restore it from a copy, or move it away")
    return found


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
        _write(temporary, [content] if isinstance(content, bytes) else content)
        flush(temporary)
        os.rename(temporary, path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be gone
            temporary.unlink()
        raise storage_error(error, path, len(content) if isinstance(content, bytes) else num_bytes or 0) from error


def write_json(path: Path, value: Any) -> None:
    """Call `write_file` with strict JSON."""
    write_file(path, to_json_bytes(value))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Call `write_file` with a CSV table; no cell can act as a formula in a spreadsheet."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(columns)
    writer.writerows(map(csv_cell, row) for row in rows)
    write_file(path, stream.getvalue().encode())


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with `files`, or replace it, as `new_folder` does.

    Raises:
        ResourceError: as `new_folder`.
    """
    with new_folder(path, num_bytes=sum(map(len, files.values())), replace=True) as folder:
        for name, content in files.items():
            _write(folder / name, [content])


@contextlib.contextmanager
def new_folder(path: Path, *, num_bytes: int = 0, replace: bool = False) -> Iterator[Path]:
    """Create the folder `path`, durably: it appears with all its content when the block ends, or not at all.

    A non-empty folder cannot be renamed over, so the name is missing for a moment if a folder is replaced. A kill in
    just that moment leaves the old folder under a temporary name, and `sweep` restores it.

    Args:
        path: The folder. Unless it is replaced, it may exist only if it is empty.
        num_bytes: Approximate size of the content, for the error message.
        replace: Replace an existing folder.

    Yields:
        A temporary folder in the same place, to write to. After an error nothing is left of it.

    Raises:
        ResourceError: if the disk is full or read-only; whatever was at `path` is still there.
    """
    try:
        with temporary_folder(path.parent, path.name) as folder:
            yield folder
            if replace and path.exists():
                _replace_folder(folder, path)
            else:
                settle_folder(folder, path)
    except OSError as error:
        raise storage_error(error, path, num_bytes) from error


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Create a folder in `parent` under a temporary name; it is removed at the end, unless it was renamed."""
    folder = temporary_place(parent, name)
    parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():  # left by a killed process of the same number
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle_folder(temporary: Path, path: Path) -> None:
    """Flush a folder with all that is in it, and rename it to `path`, durably.

    Raises:
        OSError: also if there is a folder at `path` that is not empty.
    """
    _flush_tree(temporary)
    os.rename(temporary, path)
    flush(path.parent)


def _replace_folder(temporary: Path, path: Path) -> None:
    _flush_tree(temporary)
    replaced = path.parent / f"{REPLACED}{path.name}"
    if replaced.exists():
        shutil.rmtree(replaced)
    os.rename(path, replaced)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(replaced, path)
        raise
    flush(path.parent)
    remove_folder(replaced)


def remove_folder(path: Path) -> None:
    """Remove a folder such that a kill never leaves half of it under its name.

    Raises:
        ResourceError: if the disk does not allow it.
    """
    doomed = path.parent / f"{DELETED}{os.getpid()}-{path.name}"
    try:
        os.rename(path, doomed)
        flush(path.parent)
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


def is_inside(place: str | bytes, folder: str | bytes) -> bool:
    """Whether `place` is `folder` or below it; both must be absolute and free of links, as from `os.path.realpath`."""
    place, folder = os.fsdecode(place), os.fsdecode(folder)
    return os.path.commonpath((place, folder)) == folder


def flush(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(path: Path) -> None:
    for below in sorted(path.iterdir()) if path.is_dir() else ():
        _flush_tree(below)
    flush(path)


def _write(path: Path, parts: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
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
            why="Its folder was removed or renamed in the meantime",
            fix="bring it back and give the command again, or start again with another --out",
        )
    try:
        folder = next(p for p in (path.parent, *path.parent.parents) if p.exists())
        free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except (OSError, StopIteration):
        free = "free space unknown"
    remedy = _REMEDIES.get(error.errno or 0, "check the disk")
    return ResourceError(
        f"cannot write {printable(path)}",
        why=f"{error.strerror or error}: {needed / 1e6:,.1f} MB needed, {free}. What was there before is unchanged",
        fix=f"{remedy}, then give the command again (vitlet resume RUN for a run)",
    )
