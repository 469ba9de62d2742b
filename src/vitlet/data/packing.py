"""Packs any index into tar shards: large sequential files instead of many small ones, optionally resized.

    train-000000.tar … val-000000.tar … · index.parquet · shards.json

A sample is `00000123.jpg` and, with a label, `00000123.cls` (its class number), as any WebDataset reader expects. The
number is the row in the packed data. Paths are kept in the index, because WebDataset's rule for samples would split
names with two dots and merge names that differ only in the suffix. `shards.json` lists the number of samples per shard,
in the format of `wids`, and how the shards were made.

Packing is deterministic for given images and libraries: no time, user or host name is written.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitlet.data.decode import BadImage, decode, file_suffix
from vitlet.data.index import Index
from vitlet.data.pixels import to_npy
from vitlet.data.shards import INDEX_FILE, INDEX_VERSION, SCHEMA
from vitlet.data.splits import SPLITS
from vitlet.data.views import resize
from vitlet.disk import new_folder, sweep_abandoned, to_json_bytes
from vitlet.errors import DataError, UsageError
from vitlet.text import plural, printable

SHARDS_FILE = "shards.json"
JPEG_QUALITY = 90
"""Quality of resized images; with 4:2:0 chroma, the usual setting of cameras and of ImageNet."""
SHARD_BYTES = 256 * 2**20
_WINDOW = 64


@final
@dataclass(frozen=True)
class Form:
    """How images are stored."""

    short_side: int | None = None
    """Larger images are resized to this short side in pixels; None keeps every file unchanged."""
    raw: bool = False
    """Store pixels as `.npy` instead of compressed files."""
    shard_bytes: int = SHARD_BYTES
    """Size in bytes at which a shard is closed."""


class _File(NamedTuple):
    content: bytes
    suffix: str


def pack(
    index: Index,
    ids: np.ndarray,
    *,
    out: Path,
    form: Form,
    threads: int = 1,
    left_out: Iterable[tuple[str, str]] = (),
    max_bad: float = 0.01,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the rows `ids` of `index` as shards to the new folder `out`, atomically.

    An image that has become unreadable since the check is left out as well, with its reason.

    Args:
        index: The images.
        ids: Rows to write, in ascending order; all have passed a decoding check.
        out: A folder that does not exist or is empty.
        form: Storage format.
        threads: Number of threads for decoding and encoding.
        left_out: (path, reason) of images not in `ids`, for the record.
        max_bad: The largest share of all these images that may be left out.
        progress: Called with the number of images done.

    Returns:
        The content of `shards.json`: `num_images`, `num_bytes`, `splits`, `classes`, `shardlist`, `left_out` …

    Raises:
        DataError: if more images are left out than accepted; as soon as they are.
        UsageError: if `out` is not empty.
        ResourceError: if the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{printable(out)} is not empty", why="Packing replaces nothing", fix="give --out a new folder"
        )
    sweep_abandoned(out.parent)
    left = list(left_out)
    total = len(left) + len(ids)
    with new_folder(out, num_bytes=int(index.sizes[ids].sum()) if not form.raw else 0) as folder:
        with contextlib.closing(_Shards(folder, form.shard_bytes)) as shards:
            for done, (row, file) in enumerate(_files(index, ids, form, threads), start=1):
                if isinstance(file, BadImage):
                    left.append((index.path(row), file.reason))
                    _require_enough(index, left, total=total, max_bad=max_bad)
                else:
                    shards.add(row, file, label=int(index.labels[row]), split=int(index.splits[row]))
                if progress is not None:
                    progress(done)
        facts = _facts(index, shards, form, left)
        _write_index(folder / INDEX_FILE, index, shards)
        (folder / SHARDS_FILE).write_bytes(to_json_bytes(facts))
    return facts


def _require_enough(index: Index, left: list[tuple[str, str]], *, total: int, max_bad: float) -> None:
    if len(left) / total <= max_bad and len(left) < total:
        return
    path, reason = left[-1]
    raise DataError(
        f"{len(left):,} of {plural(total, 'image')} cannot be packed",
        where=index.name,
        why=f"More than the accepted {max_bad:.1%}; the last became unreadable after the check. "
        f"{printable(path)}: {reason}. Nothing was written",
        fix="bring them back (vitlet check lists them), or go on without them: a larger --max-bad",
    )


def _files(index: Index, ids: np.ndarray, form: Form, threads: int) -> Iterator[tuple[int, _File | BadImage]]:
    """Yield the file for each row, or why there is none, in order; decoding, resizing and encoding release the GIL."""
    work = iter(map(int, ids))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        pending = [(row, pool.submit(_attempt, index, row, form)) for row in islice(work, _WINDOW)]
        while pending:
            row, future = pending.pop(0)
            yield row, future.result()
            pending += [(row, pool.submit(_attempt, index, row, form)) for row in islice(work, 1)]


def _attempt(index: Index, row: int, form: Form) -> _File | BadImage:
    try:
        return _packed(index, row, form)
    except BadImage as error:
        return error


def _packed(index: Index, row: int, form: Form) -> _File:
    content = index.read(row)
    if form.short_side is None and not form.raw:
        return _File(content, file_suffix(content))
    image = decode(content, path=index.path(row))
    short = min(image.shape[1:])
    smaller = form.short_side is not None and short > form.short_side
    if smaller:
        assert form.short_side is not None
        shape = (round(image.shape[1] * form.short_side / short), round(image.shape[2] * form.short_side / short))
        image = resize(image, shape, "bicubic")
    if form.raw:
        return _File(to_npy(image), "npy")
    return _File(_jpeg(image), "jpg") if smaller else _File(content, file_suffix(content))


def _jpeg(image: UInt8[Tensor, "3 H W"]) -> bytes:
    stream = io.BytesIO()
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    pixels.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return stream.getvalue()


@final
@dataclass(eq=False)
class _Shards:
    """The tars being written, one per split."""

    folder: Path
    shard_bytes: int
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(row, shard, offset, length)."""
    names: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    _open: dict[int, tuple[int, tarfile.TarFile]] = field(default_factory=dict)
    """Split → (number of the shard, tar)."""

    def add(self, row: int, file: _File, *, label: int, split: int) -> None:
        code, tar = self._shard(split)
        offset = _append(tar, f"{row:08d}.{file.suffix}", file.content)
        if label >= 0:
            _append(tar, f"{row:08d}.cls", str(label).encode())
        self.rows.append((row, code, offset, len(file.content)))
        self.counts[code] += 1

    def close(self) -> None:
        for split in list(self._open):
            self._finish(split)

    def _shard(self, split: int) -> tuple[int, tarfile.TarFile]:
        if split in self._open and self._open[split][1].offset >= self.shard_bytes:
            self._finish(split)
        if split not in self._open:
            number = sum(name.startswith(f"{SPLITS[split]}-") for name in self.names)
            self.names.append(f"{SPLITS[split]}-{number:06d}.tar")
            self.counts.append(0)
            tar = tarfile.open(self.folder / self.names[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._open[split] = len(self.names) - 1, tar
        return self._open[split]

    def _finish(self, split: int) -> None:
        _, tar = self._open.pop(split)
        tar.close()


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = tar.offset + tarfile.BLOCKSIZE  # names this short take one block
    tar.addfile(info, io.BytesIO(content))
    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # otherwise it keeps every header
    return offset


def _write_index(path: Path, index: Index, shards: _Shards) -> None:
    rows = np.array(shards.rows, dtype=np.int64).reshape(-1, 4)
    ids = rows[:, 0]
    facts = {
        "version": INDEX_VERSION,
        "classes": list(index.classes),
        "shards": [{"name": name, "bytes": (path.parent / name).stat().st_size} for name in shards.names],
    }
    table = pa.table(
        {
            "path": pa.array([os.fsencode(index.path(i)) for i in ids], pa.binary()),
            "label": pa.array(index.labels[ids], pa.int32()),
            "split": pa.array(index.splits[ids], pa.uint8()),
            "shard": pa.array(rows[:, 1], pa.int32()),
            "offset": pa.array(rows[:, 2], pa.int64()),
            "length": pa.array(rows[:, 3], pa.int64()),
        },
        schema=SCHEMA.with_metadata({"vitlet": to_json_bytes(facts)}),
    )
    pq.write_table(table, path, compression="zstd")


def _facts(index: Index, shards: _Shards, form: Form, left_out: list[tuple[str, str]]) -> dict[str, Any]:
    sizes = [(shards.folder / name).stat().st_size for name in shards.names]
    splits = index.splits[np.array([row for row, *_ in shards.rows], dtype=np.int64)]
    return {
        "__kind__": "vitlet-shards",
        "wids_version": 1,
        "name": index.name,
        "num_images": len(shards.rows),
        "num_bytes": sum(sizes),
        "splits": {name: int((splits == code).sum()) for code, name in enumerate(SPLITS) if (splits == code).any()},
        "classes": [printable(name) for name in index.classes],
        "packed_from": index.fingerprint,
        "short_side": form.short_side,
        "stored_as": "uint8 arrays (.npy)" if form.raw else "image files",
        "jpeg_quality": JPEG_QUALITY if form.short_side is not None and not form.raw else None,
        "num_left_out": len(left_out),
        "left_out": [[printable(path), reason] for path, reason in left_out],
        "shardlist": [
            {"url": name, "nsamples": count, "filesize": size}
            for name, count, size in zip(shards.names, shards.counts, sizes, strict=True)
        ],
    }
