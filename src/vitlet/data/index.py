"""The index of a user's images: their order, labels and splits. No pixel is read.

Images are in the order of their relative paths as bytes (for Parquet, of the rows), independent of the file system, so
that every number that depends on a position is the same on every machine.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.bad_image import BadImage
from vitlet.data.columns import (
    Progress,
    Writer,
    cache_folder,
    map_bytes,
    read_column,
    read_meta,
    release_pages,
    source_folder,
)
from vitlet.data.detection.coco import add_coco
from vitlet.data.detection.layouts import find_annotations
from vitlet.data.downstream import open_public
from vitlet.data.folders import add_folder, image_suffixes
from vitlet.data.manifest import add_manifest
from vitlet.data.names import PublicData
from vitlet.data.rows import add_rows, find_row_files
from vitlet.data.shards import add_shards, find_shards
from vitlet.data.splits import SPLITS, TRAIN, Split
from vitlet.data.stores import Store, key_of, read_regular, remote_address
from vitlet.disk import nearest
from vitlet.errors import DataError
from vitlet.text import plural, printable

_SHOWN_CLASSES = 20
_SHOWN_SKIPPED = 5
_PART_ROWS = 65_536


@final
@dataclass(frozen=True, eq=False)
class Index:
    """Images at positions 0 … len-1. The columns are maps of files in the cache: cheap to hold, fork and pickle."""

    name: str
    """Name of the folder or file, printable."""
    root: str
    """The folder or address that paths are relative to."""
    classes: tuple[str, ...]
    """Class names in the order of the label codes; empty without labels."""
    labels: np.ndarray
    """Int32 [n], -1 without a label."""
    splits: np.ndarray
    """Uint8 [n], codes into `SPLITS`; all 0 where the data has no splits."""
    sizes: np.ndarray
    """Int64 [n], size of each file in bytes."""
    mtimes: np.ndarray
    """Int64 [n], modification time of each file in nanoseconds."""
    fingerprint: str
    """Hex digits that change with any path, size, label or split."""
    skipped: tuple[tuple[str, str], ...]
    """(place, reason) of the first 1,000 links, special files and folders that were not read."""
    num_skipped: int
    notes: tuple[str, ...]
    """Sentences for the user on how the data was understood."""
    vanished: tuple[tuple[str, str], ...]
    """Classes whose folder holds no training image, with the places in it that were not read, if any."""
    folder: Path
    """Folder of the columns, in the cache."""
    _path_ends: np.ndarray = field(repr=False)
    _paths: mmap = field(repr=False)
    _content_ends: np.ndarray | None = field(repr=False)
    _content: mmap | None = field(repr=False)
    _shards: "_Shards | None" = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Open the columns that `open_index` wrote to `folder`."""
        meta = read_meta(folder)
        paths, content = map_bytes(folder / "paths.bin"), map_bytes(folder / "content.bin")
        assert paths is not None
        return cls(
            name=meta["name"],
            root=meta["root"],
            classes=tuple(meta["classes"]),
            **{column: read_column(folder, column) for column in ("labels", "splits", "sizes", "mtimes")},
            fingerprint=meta["fingerprint"],
            skipped=tuple((place, reason) for place, reason in meta["skipped"]),
            num_skipped=meta["num_skipped"],
            notes=tuple(meta["notes"]),
            vanished=tuple((name, why) for name, why in meta["vanished"]),
            folder=folder,
            _path_ends=read_column(folder, "path_ends"),
            _paths=paths,
            _content_ends=read_column(folder, "content_ends") if content is not None else None,
            _content=content,
            _shards=_Shards.load(folder, meta) if "files" in meta else None,
        )

    def __reduce__(self) -> tuple[Callable[[Path], "Index"], tuple[Path]]:
        """Pickle only the name of the folder; its columns are mapped again on loading."""
        return Index.load, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    def facts(self) -> dict[str, str]:
        """Return what identifies the data in the record of a result."""
        return {"name": self.name, "fingerprint": self.fingerprint}

    def require_every_class(self) -> None:
        """Refuse data of which a class vanished, before its labels are learned, counted or written.

        Raises:
            DataError: if a folder beside those of the classes holds no image.
        """
        if not self.vanished:
            return
        names = ", ".join(printable(name) for name, _ in self.vanished[:_SHOWN_CLASSES])
        reasons = [why for _, why in self.vanished if why][:_SHOWN_SKIPPED]
        raise DataError(
            f"{plural(len(self.vanished), 'class', 'classes')} without an image: {names}",
            where=self.name,
            why="; ".join(reasons) or f"Files need one of these suffixes: {image_suffixes()}",
            fix="make it readable, add images or remove it; if folders are no classes, put an image beside them",
        )

    def rows(self, split: Split, among: np.ndarray | None = None) -> np.ndarray:
        """Return the positions of the images of one split, sorted; of those for which `among`, bool [n], is true."""
        of_split = self.splits == SPLITS.index(split)
        return np.flatnonzero(of_split if among is None else of_split & among)

    def path(self, i: int | np.integer) -> str:
        """Return the path of image `i` relative to the root, with undecodable bytes as surrogates.

        For Parquet it is `FILE/ROW` or `FILE/ROW/NAME`, for packed data the original path, for other tars `FILE/NAME`.
        """
        start = int(self._path_ends[i - 1]) if i else 0
        return os.fsdecode(self._paths[start : int(self._path_ends[i])])

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield (path, size in bytes, modification time in nanoseconds) of all images, in order."""
        start, columns = 0, (self._path_ends, self.sizes, self.mtimes)
        for at in range(0, len(self), _PART_ROWS):
            ends, sizes, mtimes = (column[at : at + _PART_ROWS].tolist() for column in columns)
            for end, size, mtime in zip(ends, sizes, mtimes, strict=True):
                yield self._paths[start:end], size, mtime
                start = end
            for mapped in (self._paths, *(column.base for column in columns)):
                if isinstance(mapped, mmap):
                    release_pages(mapped)

    def size(self, i: int | np.integer) -> int:
        """Return the size of image `i` in bytes when the index was created."""
        return int(self.sizes[i])

    def read(self, i: int | np.integer) -> bytes:
        """Return the content of image `i`'s file.

        Raises:
            BadImage: if it cannot be read; names the path.
        """
        if self._content is not None and self._content_ends is not None:
            start = int(self._content_ends[i - 1]) if i else 0
            return self._content[start : int(self._content_ends[i])]
        if self._shards is not None:
            try:
                return self._shards.store.read(*self._shards.place(i), self.size(i))
            except BadImage as error:
                raise BadImage(self.path(i), f"{error.reason} ({error.path})") from error
        path = self.path(i)
        try:
            return read_regular(os.path.join(self.root, path))
        except OSError as error:
            raise BadImage(path, f"cannot read the file: {error.strerror or error}") from error

    def read_ahead(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Fetch files that are faster to fetch together: all `rows` from an object store, none from a disk.

        Files that cannot be read are left out; `read` says why.
        """
        if self._shards is None or not self._shards.store.is_remote:
            return {}
        unique = sorted(set(rows))
        contents = self._shards.store.read_many([(*self._shards.place(i), self.size(i)) for i in unique])
        return {i: content for i, content in zip(unique, contents, strict=True) if isinstance(content, bytes)}


@final
@dataclass(frozen=True, eq=False)
class _Shards:
    """Where the images in shards start."""

    store: Store
    files: tuple[str, ...]
    codes: np.ndarray
    offsets: np.ndarray

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> "_Shards":
        codes, offsets = read_column(folder, "shards"), read_column(folder, "offsets")
        return cls(Store(meta["root"]), tuple(meta["files"]), codes, offsets)

    def place(self, i: int | np.integer) -> tuple[str, int]:
        return self.files[int(self.codes[i])], int(self.offsets[i])


def open_index(
    data: str | os.PathLike[str],
    *,
    cache: Path | None = None,
    follow_outside: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Find the images of a folder, a manifest, Parquet files or tar shards.

    The layout is detected: COCO's annotation files with their images; `*.parquet` with image bytes; `*.tar` as written
    by WebDataset; folders `train`, `val`, `test`; one folder per class; images in any folders, without labels; or a CSV
    or Parquet manifest with `path`, `label` and `split`. Nothing is written to the user's folder.

    Args:
        data: A folder, a `.csv`, `.parquet` or `.tar` file, the address of a folder of shards or Parquet files or of
            one of them, or `torchvision:NAME@ROOT`.
        cache: Folder of caches; see `columns.cache_folder`.
        follow_outside: Also read images outside the folder that links or manifests lead to.
        progress: Is told how many megabytes are copied into the cache, and of how many; only those of Parquet are.

    Raises:
        DataError: if there are no images, or the layout or the labels are ambiguous.
        ResourceError: if the cache cannot be written.
    """
    cache = cache_folder(cache)
    named = PublicData.parse(data)
    if named is not None:
        return Index.load(open_public(named, cache=cache))
    address = remote_address(data)
    if address is not None:
        packed = _open_packed(address, cache=cache, name=printable(address), progress=progress)
        if packed is None:
            raise _nothing_packed(address)
        return packed
    source = Path(os.path.abspath(data))
    if not source.exists():
        raise _missing(source)
    if not (source.is_file() or source.is_dir()):  # opening a pipe or a device might block for ever
        raise DataError(
            f"{printable(source)} is neither a file nor a folder",
            why="It is a pipe, a socket or a device",
            fix="give an existing folder, .csv or .parquet file",
        )
    name = printable(source.name or str(source))
    annotated = find_annotations(source)
    packed = None if annotated else _open_packed(source, cache=cache, name=name, progress=progress)
    if packed is not None:
        return packed
    root = source if source.is_dir() else source.parent
    with Writer(cache) as writer:
        if annotated:
            add_coco(annotated, root=root, writer=writer)
        elif source.is_dir():
            add_folder(os.fsencode(source), writer=writer, follow_outside=follow_outside)
        else:
            add_manifest(source, writer=writer, follow_outside=follow_outside)
        return _published(writer, key="", name=name, root=str(root))


def _open_packed(source: str | Path, *, cache: Path, name: str, progress: Progress | None) -> Index | None:
    """Return the index of tar shards or of Parquet files; None if `source` is neither."""
    for kind, find, add in (("shards", find_shards, add_shards), ("rows", find_row_files, add_rows)):
        store, entries = find(source)
        if not entries:
            continue
        key = key_of(kind, store, entries)
        if (source_folder(cache, key) / "index.json").is_file():
            return Index.load(source_folder(cache, key))
        with Writer(cache, progress=progress) as writer:
            add(store, entries, writer=writer)
            return _published(writer, key=key, name=name, root=store.root)
    return None


def _published(writer: Writer, *, key: str, name: str, root: str) -> Index:
    classes = writer.classes
    _check_classes(writer, classes, where=name)
    if writer.num_skipped:
        count = plural(writer.num_skipped, "place was", "places were")
        examples = [f"{printable(place)} ({reason})" for place, reason in writer.skipped[:_SHOWN_SKIPPED]]
        rest = writer.num_skipped - len(examples)
        writer.notes.append(f"{count} not read: {', '.join(examples)}" + (f" and {rest:,} more" if rest else ""))
    return Index.load(writer.publish(key=key, name=name, root=root, classes=classes))


def _nothing_packed(address: str) -> DataError:
    return DataError(
        "no shards",
        where=printable(address),
        why="There is neither a .tar nor a Parquet file with images in it",
        fix="vitlet pack DATA --out SHARDS, and copy that folder there",
    )


def _missing(source: Path) -> DataError:
    return DataError(
        f"there is no {printable(source)}", why=nearest(source), fix="give an existing folder, .csv or .parquet file"
    )


def _check_classes(writer: Writer, classes: list[bytes], *, where: str) -> None:
    labels, in_train = writer.labels(classes), writer.splits == TRAIN
    trained, others = (np.unique(labels[rows & (labels >= 0)]) for rows in (in_train, ~in_train))
    unknown, own = np.setdiff1d(others, trained), np.setdiff1d(trained, others)
    if not len(trained) or not len(unknown):
        return
    lacking, alone = (
        ", ".join(printable(os.fsdecode(classes[i])) for i in numbers[:_SHOWN_CLASSES]) for numbers in (unknown, own)
    )
    if alone:
        raise DataError(
            "train and the other splits have different classes",
            where=where,
            why=f"train has no images of: {lacking}; only train has: {alone}",
            fix="name classes alike in all splits, or remove from val and test those that train lacks",
        )
    raise DataError(
        f"{len(unknown)} of {len(classes)} classes are only in val or test",
        where=where,
        why=f"train has no images of: {lacking}",
        fix="add training images of these classes or remove them from val and test",
    )
