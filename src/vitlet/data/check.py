"""Decode every image once, before training: what is unreadable, odd, tiny, doubled or leaked.

Training uses the same verdicts, so a set with damaged files gives the same batches as the set without them, and no
run dies in its ninth hour on a truncated file. Verdicts are cached by path, size, time of change, limits and
decoder; an interrupted check goes on where it was.
"""

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torchvision.io  # noqa: F401  # before the fork, else every process pays seconds for it

from vitlet.data.columns import cache_folder
from vitlet.data.decode import MAX_PIXELS, MIN_SIDE, BadImage, decode_with_mode, decoder_version
from vitlet.data.duplicates import THUMBNAIL, thumbnail
from vitlet.data.index import Index
from vitlet.data.verdicts import ITEM, Verdicts, summarise
from vitlet.data.workers import Lost, parallel
from vitlet.disk import write_file
from vitlet.text import printable

ITEM_SECONDS = 60.0
"""An image that takes longer is bad."""

_SAVE_SECONDS = 60.0
# libjpeg goes on after these with grey or shifted blocks, and says so on stderr only.
_DAMAGE = ("premature end of data segment", "bad Huffman code")


def check(
    index: Index,
    *,
    workers: int,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    item_seconds: float = ITEM_SECONDS,
) -> Verdicts:
    """Decode what no earlier check has decoded, and judge the whole index.

    Args:
        index: The images.
        workers: Decoding processes; 0 means one, so that no file can hang or crash the caller.
        max_pixels: As for `decode`.
        min_side: As for `decode`.
        progress: Called with (images done, images in all).
        cache: Where verdicts are kept; see `columns.cache_folder`.
        item_seconds: An image that takes longer is bad.

    Raises:
        ResourceError: if the cache cannot be written.
        WorkerError: if the decoding processes do not start.
    """
    ledger = _Ledger(index, cache_folder(cache), limits=(max_pixels, min_side))
    todo = np.flatnonzero(~ledger.known)
    examine = partial(_examine, index, max_pixels, min_side)
    done, saved = len(index) - len(todo), time.monotonic()
    try:
        for i, finding, noise in parallel(examine, map(int, todo), workers=max(1, workers), timeout=item_seconds):
            ledger.enter(i, finding, noise)
            done += 1
            if progress is not None:
                progress(done, len(index))
            if time.monotonic() - saved > _SAVE_SECONDS:
                ledger.save()
                saved = time.monotonic()
    finally:
        if len(todo):
            ledger.save()
    if progress is not None and not len(todo):
        progress(done, len(index))
    return summarise(index, ledger.items, ledger.texts)


class _Finding(NamedTuple):
    """What one image turned out to be; without a mode it is bad, and `reason` says why."""

    digest: bytes = bytes(32)
    thumbnail: bytes = bytes(72)
    height: int = 0
    width: int = 0
    mode: str = ""
    reason: str = ""
    is_lasting: bool = True
    """False where another try may succeed though the file is the same: it could not be read, or took too long."""


def _examine(index: Index, max_pixels: int, min_side: int, i: int) -> _Finding:
    try:
        content = index.read(i)
    except BadImage as error:
        return _Finding(reason=error.reason, is_lasting=False)
    digest = hashlib.sha256(content).digest()
    try:
        pixels, mode = decode_with_mode(content, path="", max_pixels=max_pixels, min_side=min_side)
    except BadImage as error:
        return _Finding(digest=digest, reason=error.reason)
    return _Finding(digest, thumbnail(pixels).tobytes(), pixels.shape[1], pixels.shape[2], mode)


@final
class _Ledger:
    """The findings of one index, those of earlier checks included."""

    def __init__(self, index: Index, cache: Path, *, limits: tuple[int, int]) -> None:
        name = repr((os.path.realpath(index.root), index.name, decoder_version(), limits))
        self._file = cache / f"check-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:24]}.npz"
        self.items = np.zeros(len(index), dtype=ITEM)
        self.items["key"] = _keys(index)
        self.texts: list[str] = [""]
        """What `mode`, `reason` and `warning` of the items count in; 0 is none."""
        self.known = np.zeros(len(index), dtype=bool)
        self._lasting = np.zeros(len(index), dtype=bool)
        self._recall()
        self._places = {text: i for i, text in enumerate(self.texts)}

    def enter(self, i: int, finding: "_Finding | Lost", noise: str) -> None:
        """Take down what was found about image `i`."""
        if isinstance(finding, Lost):
            finding = _Finding(reason=finding.reason, is_lasting=False)
        warning = printable(" ".join(noise.split()))[:200]
        if any(word in warning for word in _DAMAGE):
            finding = finding._replace(mode="", reason=f"damaged: {warning}")
        item = self.items[i]
        item["digest"] = finding.digest
        item["thumbnail"] = np.frombuffer(finding.thumbnail, dtype=np.uint8).reshape(THUMBNAIL)
        item["height"], item["width"] = finding.height, finding.width
        for column, text in (("mode", finding.mode), ("reason", finding.reason), ("warning", warning)):
            item[column] = self._places.setdefault(text, len(self._places))
            if len(self._places) > len(self.texts):
                self.texts.append(text)
        self.known[i], self._lasting[i] = True, finding.is_lasting

    def save(self) -> None:
        """Keep the lasting findings for the next check."""
        stream = io.BytesIO()
        texts = np.frombuffer(json.dumps(self.texts).encode(), dtype=np.uint8)
        np.savez(stream, items=self.items[self.known & self._lasting], texts=texts)
        write_file(self._file, stream.getvalue())

    def _recall(self) -> None:
        try:
            with np.load(io.BytesIO(self._file.read_bytes())) as saved:
                items, texts = saved["items"], json.loads(saved["texts"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return  # none yet, or a damaged cache: everything is decoded again
        if items.dtype != ITEM or not len(items):
            return
        order = np.argsort(items["key"])
        found = np.searchsorted(items["key"], self.items["key"], sorter=order)
        places = order[np.minimum(found, len(items) - 1)]
        self.known = items["key"][places] == self.items["key"]
        self.items[self.known] = items[places[self.known]]
        self.texts, self._lasting = texts, self.known.copy()


def _keys(index: Index) -> np.ndarray:
    """`S16` [n]: hashes of path, size and time of change, as in `verdicts.ITEM`."""
    keys = bytearray()
    for i in range(len(index)):
        entry = b"%d %d %s" % (index.sizes[i], index.mtimes[i], os.fsencode(index.path(i)))
        keys += hashlib.blake2b(entry, digest_size=16).digest()
    return np.frombuffer(bytes(keys), dtype="S16")
