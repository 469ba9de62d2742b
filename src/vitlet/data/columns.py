"""The index on disk: one folder of flat columns in the cache, written once, read through memory maps.

    index.json · paths.bin, path_ends.npy · labels.npy · splits.npy · sizes.npy · mtimes.npy ·
    [content.bin, content_ends.npy] · [shards.npy, offsets.npy]

Paths are bytes, one after the other. `content.bin` holds the images themselves if the source is a Parquet file;
`shards` and `offsets` say where each image starts if the source is tar shards. A million Python strings would take
100 MB in every worker and, because of reference counts, be copied by every fork; a map takes only the pages that are
read, once for all processes.

Everything in the cache can be deleted at any time; it is created again.
"""

import array
import contextlib
import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitlet.disk import settle_folder, sweep_abandoned, temporary_folder, to_json_bytes
from vitlet.errors import DataError, ResourceError
from vitlet.text import printable

Progress = Callable[[int, int], None]
"""Told how many megabytes are copied, and how many there are."""

_MEGABYTE = 1_000_000
_FORMAT = 2
_MAX_SKIPPED = 1000
_SORTED_ROWS = 16_384
_COLUMNS = {"path_ends": "q", "labels": "i", "splits": "B", "sizes": "q", "mtimes": "q"}


def cache_folder(cache: Path | None = None) -> Path:
    """Return the folder of caches: the argument, $VITLET_CACHE, $XDG_CACHE_HOME/vitlet or ~/.cache/vitlet."""
    if cache is not None:
        return Path(cache)
    if named := os.environ.get("VITLET_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitlet"


def cache_error(error: OSError, folder: Path) -> ResourceError:
    """Return the error for a cache that cannot be written, with a fix."""
    return ResourceError(
        f"cannot write the cache in {printable(folder)}",
        why=error.strerror or str(error),
        fix="free some space, or: export VITLET_CACHE=/a/folder/with/room",
    )


@final
class Writer:
    """Collects the entries of one source and publishes them, in their order, as one folder of the cache.

    A context manager: nothing is left behind after an error.
    """

    def __init__(self, cache: Path, *, progress: Progress | None = None) -> None:
        """Set up an empty index.

        Args:
            cache: The cache; entries are written to a temporary folder in it.
            progress: Is told of content that is copied.
        """
        self._cache, self._progress = cache, progress
        self._copied = self._expected = 0
        self._open = contextlib.ExitStack()
        sweep_abandoned(cache)
        self._columns = {name: array.array(code) for name, code in _COLUMNS.items()}
        self._codes: dict[bytes, int] = {}
        self._declared: list[bytes] = []
        self.skipped: list[tuple[str, str]] = []
        """The first 1,000 places that were not read, with the reason."""
        self.num_skipped = 0
        self.notes: list[str] = []
        """Sentences for the user on how the data was understood."""
        self.vanished: list[tuple[str, str]] = []
        """Classes whose folder holds no training image, with the places in it that were not read, if any."""
        try:
            self._folder = self._open.enter_context(temporary_folder(cache, uuid.uuid4().hex[:8]))
            self._paths: IO[bytes] = open(self._folder / "paths.bin", "wb")  # noqa: SIM115
        except OSError as error:
            raise cache_error(error, cache) from error
        self._content: IO[bytes] | None = None
        self._files: list[str] | None = None
        self._places = {"shards": array.array("i"), "offsets": array.array("q")}
        self._end = 0
        self._attached = hashlib.sha256()
        self._has_attached = False

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._paths.close()
        if self._content is not None:
            self._content.close()
        self._open.close()

    def __len__(self) -> int:
        return len(self._columns["labels"])

    def add(self, path: bytes, *, label: bytes | None, split: int, size: int, mtime: int) -> None:
        """Add an image; `label` is its class name or None, `mtime` is in nanoseconds."""
        self._write(self._paths, path)
        self._end += len(path)
        code = -1 if label is None else self._codes.setdefault(label, len(self._codes))
        columns = self._columns
        columns["path_ends"].append(self._end)
        columns["labels"].append(code)
        columns["splits"].append(split)
        columns["sizes"].append(size)
        columns["mtimes"].append(mtime)

    def expect(self, num_bytes: int) -> None:
        """Announce how much content will be added, in bytes, and refuse what will not fit.

        Raises:
            ResourceError: if the disk of the cache has less room.
        """
        free = shutil.disk_usage(self._folder).free
        if num_bytes > free:
            raise ResourceError(
                f"no room for the images in the cache ({printable(self._cache)})",
                why=f"{num_bytes:,} bytes needed, {free:,} free; nothing was copied",
                fix="free some space, or: export VITLET_CACHE=/a/folder/with/room",
            )
        self._expected = num_bytes

    def add_content(self, content: bytes) -> None:
        """Add the bytes of the next image, for sources whose images are not files."""
        if self._content is None:
            self._content = open(self._folder / "content.bin", "wb")  # noqa: SIM115
        self._write(self._content, content)
        before, self._copied = self._copied, self._copied + len(content)
        if self._progress is not None and self._copied // _MEGABYTE > before // _MEGABYTE:
            self._progress(self._copied // _MEGABYTE, self._expected // _MEGABYTE)

    def place_in(self, files: list[str]) -> None:
        """State the files that contain the images added from now on; names are relative to the root."""
        self._files = files

    def add_place(self, file: int, offset: int) -> None:
        """State where the image added last starts: a position in the files of `place_in`, and an offset in bytes."""
        self._places["shards"].append(file)
        self._places["offsets"].append(offset)

    def attach(self, name: str, content: bytes) -> None:
        """Add another file to the index; its content is part of the fingerprint."""
        with open(self._folder / name, "wb") as stream:
            self._write(stream, content)
        self._attached.update(f"{name} {len(content)} ".encode() + content)
        self._has_attached = True

    def skip(self, path: str, reason: str) -> None:
        """Record that something was not read, and why."""
        self.num_skipped += 1
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append((path, reason))

    def declare(self, classes: list[bytes]) -> None:
        """Set the class names and their order, if the source states them.

        Raises:
            DataError: if an earlier call stated others.
        """
        if self._declared and classes != self._declared:
            raise DataError(
                "the files of this data name different classes",
                why="Their labels cannot be compared",
                fix="write all files with the same class names in the same order",
            )
        self._declared = classes

    @property
    def classes(self) -> list[bytes]:
        """The declared class names; without them, those added so far: numbers by value, words by their bytes."""
        if self._declared:
            return self._declared
        names = sorted(self._codes)
        return sorted(names, key=int) if all(_is_number(name) for name in names) else names

    def labels(self, classes: list[bytes]) -> np.ndarray:
        """Return the position of each label in `classes`, int32 [n]; -1 without a label."""
        place = {name: i for i, name in enumerate(classes)}
        table = np.array([*(place[name] for name in self._codes), -1], dtype=np.int32)  # code -1 selects the last
        return table[np.frombuffer(self._columns["labels"], dtype=np.int32)]

    @property
    def splits(self) -> np.ndarray:
        """Uint8 [n]."""
        return np.frombuffer(self._columns["splits"], dtype=np.uint8)

    def sort(self, repeated: Callable[[bytes, int, int], None]) -> np.ndarray:
        """Sort the images by the bytes of their paths; the sort is stable.

        Args:
            repeated: Called with each repeated path, and the previous positions of the earlier and the later image.

        Returns:
            Int64 [n]: the previous position of each image.
        """
        if not len(self):
            return np.empty(0, dtype=np.int64)
        ends = np.frombuffer(self._columns["path_ends"], dtype=np.int64)
        offsets = np.append(np.int64(0), ends)
        try:
            order = self._sort_paths(offsets, repeated)
        except OSError as error:
            raise cache_error(error, self._cache) from error
        np.cumsum(np.diff(offsets)[order], out=ends)
        for name in ("labels", "splits", "sizes", "mtimes"):
            values = np.frombuffer(self._columns[name], dtype=_COLUMNS[name])
            values[:] = values[order]
        return order

    def _sort_paths(self, offsets: np.ndarray, repeated: Callable[[bytes, int, int], None]) -> np.ndarray:
        self._paths.close()
        mapped = map_bytes(self._folder / "paths.bin")
        os.unlink(self._folder / "paths.bin")  # the bytes exist as long as they are mapped
        self._paths = open(self._folder / "paths.bin", "wb")  # noqa: SIM115
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(mapped)]
        paths = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)
        order = pc.call_function("array_sort_indices", [paths]).to_numpy().view(np.int64)
        for start in range(0, len(order), _SORTED_ROWS):
            former = max(0, start - 1)  # a part starts with the last path of the previous one
            part = paths.take(pa.array(order[former : start + _SORTED_ROWS]))
            for i in np.flatnonzero(pc.call_function("equal", [part[1:], part[:-1]])):
                repeated(part[int(i)].as_py(), int(order[former + i]), int(order[former + i + 1]))
            skipped = offsets[order[former] + 1] - offsets[order[former]] if former < start else 0
            self._paths.write(memoryview(part.buffers()[2])[skipped:])
        return order

    def publish(self, *, key: str, name: str, root: str, classes: list[bytes]) -> Path:
        """Flush everything and give the folder its final name, a hash of `key` or, if that is empty, of the content.

        Returns:
            The folder. One that already has this name has the same content and is kept.
        """
        columns = {n: np.frombuffer(c, dtype=c.typecode) for n, c in self._columns.items()}
        columns["labels"] = self.labels(classes)
        try:
            self._paths.close()
            with open(self._folder / "paths.bin", "rb") as stream:
                content_hash = hashlib.file_digest(stream, "sha256")
            for column in ("path_ends", "sizes", "labels", "splits"):
                content_hash.update(columns[column].data)
            content_hash.update(repr(classes).encode())
            if self._has_attached:
                content_hash.update(self._attached.digest())
            meta: dict[str, Any] = {
                "name": name,
                "root": root,
                "classes": [os.fsdecode(c) for c in classes],
                "fingerprint": content_hash.hexdigest()[:16],
                "skipped": self.skipped,
                "num_skipped": self.num_skipped,
                "notes": self.notes,
                "vanished": self.vanished,
            }
            if self._files is not None:
                meta["files"] = self._files
                columns |= {n: np.frombuffer(c, dtype=c.typecode) for n, c in self._places.items()}
            content_hash.update(columns["mtimes"].data)
            content_hash.update(to_json_bytes(meta))
            folder = source_folder(self._cache, key or content_hash.hexdigest())
            for column, values in columns.items():
                np.save(self._folder / f"{column}.npy", values)
            if self._content is not None:
                np.save(self._folder / "content_ends.npy", np.cumsum(columns["sizes"]))
            (self._folder / "index.json").write_bytes(to_json_bytes(meta))
            self._settle(folder)
        except OSError as error:
            raise cache_error(error, self._cache) from error
        return folder

    def _settle(self, folder: Path) -> None:
        if self._content is not None:
            self._content.close()
        try:
            settle_folder(self._folder, folder)
        except OSError:
            if not (folder / "index.json").is_file():  # otherwise another process was faster with the same content
                raise

    def _write(self, stream: IO[bytes], content: bytes) -> None:
        try:
            stream.write(content)
        except OSError as error:
            raise cache_error(error, self._cache) from error


def source_folder(cache: Path, key: str) -> Path:
    """Return the cache folder of an index whose source is described by `key`."""
    return cache / f"index-{hashlib.sha256(f'{_FORMAT} {key}'.encode(errors='surrogateescape')).hexdigest()[:24]}"


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the JSON part of an index."""
    return json.loads((folder / "index.json").read_bytes())


def read_column(folder: Path, name: str) -> np.ndarray:
    """Map one column, read-only."""
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def map_bytes(file: Path) -> mmap.mmap | None:
    """Map the bytes of a file, read-only; None if there is no such file."""
    try:
        with open(file, "rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None


def release_pages(mapped: mmap.mmap) -> None:
    """Release the pages that were read; they are paged in again on access."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _is_number(name: bytes) -> bool:
    return name.isdigit() and (name == b"0" or not name.startswith(b"0"))
