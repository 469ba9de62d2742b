"""Images in WebDataset tar shards, with random access by (shard, offset, length).

`vitlet pack` writes an index next to its shards (`index.parquet`), which keeps the row order, paths and classes of the
packed data: the fingerprint is the same, and so are batches, and runs can be resumed. Other tars are scanned once,
header by header, and indexed in the order of their names. A damaged header loses the samples up to the next intact one;
damage inside an image is detected when decoding, as everywhere.

Differences from the `webdataset` package: nothing is streamed, so there is no shuffle buffer and no shard is exclusive
to one worker; unreadable samples are counted, not silently skipped; `pipe:` and other commands are not run.
"""

import json
import operator
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitlet.data.columns import Writer
from vitlet.data.folders import SUFFIXES
from vitlet.data.splits import SPLITS, codes_of_files
from vitlet.data.stores import Entry, Store, store_of
from vitlet.errors import DataError
from vitlet.text import plural, printable

INDEX_FILE = "index.parquet"
INDEX_VERSION = 1
SCHEMA = pa.schema(
    [
        ("path", pa.binary()),
        ("label", pa.int32()),
        ("split", pa.uint8()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
"""One row per image, in the order of the packed data. The metadata entry `vitlet` holds classes and shards."""

_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_IMAGE_SUFFIXES = {suffix.decode() for suffix in SUFFIXES} | {".npy"}
_MAX_LABEL_BYTES = 4096
_UNREADABLE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError)
"""What the library raises for a header: the others for numbers and chains that nobody but an attacker writes."""
_BATCH_ROWS = 65_536


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    label: bytes | None
    """What it says, where it is the label of its sample."""


def find_shards(source: str | os.PathLike[str]) -> tuple[Store, list[Entry]]:
    """Return the store and its tars, with their index file if there is one; no entries if `source` has no shards.

    A local folder counts as shards if it holds tars together with the index of `vitlet pack`, or tars but no images,
    tables or folders; a folder in an object store if it holds tars.

    Raises:
        DataError: for compressed tars, or if `source` cannot be listed.
    """
    store, name = store_of(source)
    is_folder = not name and not store.is_remote
    if is_folder and not os.path.isfile(store.place(INDEX_FILE)) and _holds_more(Path(store.root)):
        return store, []
    entries = [store.entry(name)] if name else store.entries(ending=(".tar", INDEX_FILE, *_COMPRESSED))
    if any(map(_is_tar, entries)):
        return store, [entry for entry in entries if _is_tar(entry) or entry.name == INDEX_FILE]
    compressed = [entry.name for entry in entries if entry.name.lower().endswith(_COMPRESSED)]
    if compressed:
        raise DataError(
            f"compressed shards: {printable(', '.join(compressed[:3]))}",
            where=printable(store.root),
            why="Inside a compressed tar nothing can be read at random, and images in it are compressed already",
            fix="decompress them (gunzip, xz -d, zstd -d)",
        )
    return store, []


def add_shards(store: Store, entries: list[Entry], *, writer: Writer) -> None:
    """Add every image of the shards, from their index or by reading their headers.

    Raises:
        DataError: if there is no image, or the index does not match the shards.
    """
    tars = list(filter(_is_tar, entries))
    if any(entry.name == INDEX_FILE for entry in entries):
        _add_indexed(store, {entry.name: entry for entry in tars}, writer)
    else:
        _add_scanned(store, tars, writer)
    if not len(writer):
        raise DataError(
            "no images",
            where=printable(store.root),
            why="The shards hold none that can be read",
            fix="vitlet pack DATA --out SHARDS, and give that folder",
        )


def _is_tar(entry: Entry) -> bool:
    return entry.name.lower().endswith(".tar")


def _add_indexed(store: Store, tars: dict[str, Entry], writer: Writer) -> None:
    try:
        with store.open(INDEX_FILE) as stream, pq.ParquetFile(stream) as table:
            classes, facts = _facts(table.schema_arrow, store)
            shards = [_matching(name, size, tars, store) for name, size in facts]
            writer.declare(classes)
            writer.place_in([shard.name for shard in shards])
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                _add_batch(batch, shards, classes, store, writer)
    except (pa.ArrowException, OSError) as error:
        raise _unusable(store, str(error)) from error


def _add_batch(batch: pa.RecordBatch, shards: list[Entry], classes: list[bytes], store: Store, writer: Writer) -> None:
    if any(batch.column(name).null_count for name in SCHEMA.names):
        raise _unusable(store, "a row lacks a value")
    labels, splits, codes, offsets, lengths = (
        batch.column(name).to_numpy(zero_copy_only=False) for name in SCHEMA.names[1:]
    )
    sizes = np.array([shard.size for shard in shards])
    fits = (codes >= 0) & (codes < len(shards)) & (labels >= -1) & (labels < len(classes)) & (splits < len(SPLITS))
    fits &= (offsets >= 0) & (lengths >= 0)
    if not fits.all() or (offsets + lengths > sizes[codes]).any():
        raise _unusable(store, "it points outside the shards")
    columns = (column.tolist() for column in (labels, splits, codes, offsets, lengths))
    for path, label, split, code, offset, length in zip(batch.column("path").to_pylist(), *columns, strict=True):
        name = None if label < 0 else classes[label]
        writer.add(path, label=name, split=split, size=length, mtime=shards[code].stamp)
        writer.add_place(code, offset)


def _facts(schema: pa.Schema, store: Store) -> tuple[list[bytes], list[tuple[str, int]]]:
    """The class names, and the name and size of each shard."""
    foreign = _unusable(store, "it was not written by this version of vitlet pack")
    try:
        facts = json.loads((schema.metadata or {})[b"vitlet"])
        version, classes = facts["version"], [os.fsencode(name) for name in facts["classes"]]
        shards = [(os.fspath(shard["name"]), operator.index(shard["bytes"])) for shard in facts["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise foreign from error
    if version != INDEX_VERSION or any(schema.field(f.name).type != f.type for f in SCHEMA if f.name in schema.names):
        raise foreign
    if not set(SCHEMA.names) <= set(schema.names):
        raise _unusable(store, "columns are missing")
    return classes, shards


def _matching(name: str, size: int, tars: dict[str, Entry], store: Store) -> Entry:
    tar = tars.get(name)
    if tar is None or tar.size != size:
        what = "is missing" if tar is None else f"has {tar.size:,} bytes, not {size:,}"
        raise DataError(
            f"shard {printable(name)} {what}",
            where=printable(store.root),
            why=f"{INDEX_FILE} was written for other files",
            fix="copy the shard again, or pack the data again",
        )
    return tar


def _unusable(store: Store, why: str) -> DataError:
    return DataError(
        f"cannot use {INDEX_FILE}",
        where=printable(store.root),
        why=printable(why[:200]),
        fix="pack the data again, or delete this file: the shards are then read header by header",
    )


def _add_scanned(store: Store, tars: list[Entry], writer: Writer) -> None:
    names = [entry.name for entry in tars]
    splits = codes_of_files(names, where=printable(store.root))
    writer.place_in(names)
    for code in sorted(range(len(tars)), key=lambda code: splits[names[code]]):
        entry = tars[code]
        try:
            with store.open(entry.name) as stream:
                for sample in _samples(_members(stream, entry, writer)):
                    _add_sample(sample, entry, code, splits[names[code]], writer)
        except OSError as error:
            raise DataError(
                f"cannot read {printable(entry.name)}",
                where=printable(store.root),
                why=error.strerror or str(error),
                fix="make the shard readable, or copy it again",
            ) from error


def _members(stream: Any, entry: Entry, writer: Writer) -> Iterator[_Member]:
    """Yield the files of a tar from its headers; damaged or truncated parts are recorded in `writer`."""
    expected = 0
    # With ignore_zeros, damaged headers are skipped block by block up to the next intact one.
    with tarfile.open(fileobj=stream, mode="r:", ignore_zeros=True, errors="surrogateescape") as tar:
        while True:
            try:
                info = tar.next()
            except _UNREADABLE as error:
                if expected < entry.size:
                    reason = f"no header can be read: {printable(str(error))[:80]}"
                    writer.skip(f"{entry.name} at byte {expected}", reason)
                return
            if info is None:
                return
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # otherwise it keeps every header
            if info.offset > expected:
                writer.skip(f"{entry.name} at byte {expected}", f"{info.offset - expected:,} bytes without a header")
            if tar.offset < info.offset_data:  # with a negative size, which would be read again and again
                writer.skip(f"{entry.name}/{info.name}", "its header gives no possible size")
                expected = tar.offset = info.offset_data
                continue
            expected = min(tar.offset, entry.size)
            is_file = info.isreg() and not info.sparse
            end = info.offset_data + info.size if is_file else tar.offset - tarfile.BLOCKSIZE + 1
            if end > entry.size:
                writer.skip(f"{entry.name}/{info.name}", "the shard ends before this file does")
                return
            if not is_file:
                continue
            yield _Member(info.name, info.offset_data, info.size, _label(stream, info))


def _label(stream: Any, info: tarfile.TarInfo) -> bytes | None:
    """Read from the stream, which stands just before it: a request for each label would take hours."""
    if not info.name.endswith(".cls") or info.size > _MAX_LABEL_BYTES:
        return None
    stream.seek(info.offset_data)
    return stream.read(info.size).strip() or None


def _samples(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    """Group neighbours with the same name up to the first dot of the file name: WebDataset's rule."""
    sample: list[_Member] = []
    for member in members:
        if sample and _key(member.name) != _key(sample[0].name):
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _key(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.', 1)[0]}"


def _add_sample(sample: list[_Member], entry: Entry, code: int, split: int, writer: Writer) -> None:
    images = [member for member in sample if os.path.splitext(member.name)[1].lower() in _IMAGE_SUFFIXES]
    place = f"{entry.name}/{sample[0].name}"
    if not images:
        writer.skip(place, "a sample without an image")
        return
    if len(images) > 1:
        writer.skip(place, f"{plural(len(images) - 1, 'more image')} in one sample; the first is used")
    image, label = images[0], None
    for member in sample:
        label = member.label or label
    name = os.fsencode(f"{entry.name}/{image.name}")
    writer.add(name, label=label, split=split, size=image.size, mtime=entry.stamp)
    writer.add_place(code, image.offset)


def _holds_more(folder: Path) -> bool:
    """Whether the folder contains anything that suggests another kind of data; stops at the first find."""
    others = _IMAGE_SUFFIXES | {".parquet"}
    try:
        with os.scandir(folder) as entries:
            return any(
                entry.is_dir() or os.path.splitext(entry.name)[1].lower() in others
                for entry in entries
                if entry.name[:1] != "."
            )
    except OSError:  # the next reader reports it
        return True
