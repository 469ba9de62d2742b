"""Checks of a command's output file: problems are reported before the work, not after hours of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vitlet.errors import UsageError
from vitlet.text import printable

Kind = Literal["features", "predictions", "objects", "page", "figures", "script"]
_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "features": (".parquet",),
    "predictions": (".csv",),
    "objects": (".json",),
    "page": (".html", ".htm"),
    "figures": (".json",),
    "script": (),
}
_HEAD = 1 << 16


def require_free(kind: Kind, path: Path | None, *, option: str = "--out") -> None:
    """Refuse a path where no file of this kind can be written; an existing file of the same kind may be replaced.

    Raises:
        UsageError: for a wrong suffix, a folder, a parent that cannot be created, or an existing file of another kind.
    """
    if path is None:
        return
    suffixes, shown = _SUFFIXES[kind], printable(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(
            f"{option} {shown} does not end in {suffixes[0]}",
            why=f"A {suffixes[0].removeprefix('.')} file is written",
            fix=f"{option} {printable(path.with_suffix(suffixes[0])) if path.name else 'FILE' + suffixes[0]}",
        )
    if path.is_dir():
        raise UsageError(f"{option} {shown} is a folder", fix=f"{option} {printable(path / 'NAME')}{path.suffix}")
    above = next(place for place in path.absolute().parents if os.path.lexists(place))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "may not be written to" if above.is_dir() else "is no folder"
        raise UsageError(f"{option} {shown} cannot be written", why=f"{printable(above)} {why}", fix="another place")
    if os.path.lexists(path) and not _is_ours(path, kind):
        raise UsageError(
            f"{option} {shown} is there, and of something else",
            why="Only what the same command wrote is replaced; nothing was changed",
            fix="another name, or move that file away",
        )


def _is_ours(path: Path, kind: Kind) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
            return not head or _RECOGNISED[kind](head, path)
    except OSError:
        return False


def _is_features(_: bytes, path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names == ["path", "split", "label", "feature"]
    except (pa.ArrowException, OSError):
        return False


def _is_objects(head: bytes, _: Path) -> bool:
    return head.startswith(b"[") and (head.strip() == b"[]" or (b'"file_name"' in head and b'"score"' in head))


def _is_figures(head: bytes, path: Path) -> bool:
    return head.startswith(b"{") and any(word in path.read_bytes() for word in (b'"machine"', b'"hardware"'))


_RECOGNISED: dict[Kind, Callable[[bytes, Path], bool]] = {
    "features": _is_features,
    "predictions": lambda head, _: head.startswith(b"path,predicted,probability,label"),
    "objects": _is_objects,
    "page": lambda head, _: b" \xe2\x80\x93 vitlet" in head.partition(b"</title>")[0],
    "figures": _is_figures,
    "script": lambda head, _: head.startswith(b"#!") and b"vitlet" in head,
}
