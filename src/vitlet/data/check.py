"""Decode every image once, before training: some are unreadable, odd, tiny, duplicated or leaked.

Training uses the same verdicts, so a set with damaged files gives the same batches as the set without them, and no run
fails in its ninth hour because of a truncated file. Findings are cached by path, size, modification time, limits and
decoder; an interrupted check continues where it stopped.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from vitlet.data.bad_image import BadImage
from vitlet.data.columns import cache_folder
from vitlet.data.decode import JPEG_DAMAGE, MAX_PIXELS, MIN_SIDE, decode_with_mode, decoder_version
from vitlet.data.duplicates import THUMBNAIL, thumbnail
from vitlet.data.findings import PART_ROWS, ROW, Findings
from vitlet.data.index import Index
from vitlet.data.stores import is_remote
from vitlet.data.verdicts import Verdicts, summarise
from vitlet.data.workers import Lost, parallel
from vitlet.disk import write_file
from vitlet.text import printable

ITEM_SECONDS = 60.0
"""An image that takes longer to decode is bad."""

_PAUSES = (1.0, 5.0, 15.0)
"""Seconds before each further try of what an object store did not send: now and then a request fails."""
_SAVE_SECONDS = 60.0
_CRC_BYTES = 4


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
    """Decode the images that no earlier check has decoded, and judge all of them.

    Those that could not be read from an object store are tried again at the end, before they count as bad.

    Args:
        index: The images.
        workers: Number of decoding processes, at least one, so that no file can hang or crash the caller.
        max_pixels: See `decode`.
        min_side: See `decode`.
        progress: Called with (number of images done, number of images).
        cache: Folder of caches; see `columns.cache_folder`.
        item_seconds: An image that takes longer is bad.

    Raises:
        ResourceError: if the cache cannot be written.
        WorkerError: if the decoding processes do not start.
    """
    ledger = _Ledger(index, cache_folder(cache), limits=(max_pixels, min_side))
    findings = ledger.findings
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
        for pause in _PAUSES if is_remote(index.root) else ():
            if not len(again := ledger.passing()):
                break
            time.sleep(pause)
            for found in parallel(examine, map(int, again), workers=max(1, workers), timeout=item_seconds):
                ledger.enter(*found)
    finally:
        if len(todo):
            ledger.save()
    if progress is not None and not len(todo):
        progress(done, len(index))
    del ledger  # its keys take as much memory as the findings themselves
    return summarise(index, findings)


class _Finding(NamedTuple):
    """The result of decoding one image; without a mode it is bad, and `reason` says why."""

    digest: bytes = bytes(16)
    thumbnail: bytes = bytes(72)
    height: int = 0
    width: int = 0
    mode: str = ""
    reason: str = ""
    is_lasting: bool = True
    """False if another try may succeed with the same file: it could not be read, or took too long."""


def _examine(index: Index, max_pixels: int, min_side: int, i: int) -> _Finding:
    try:
        content = index.read(i)
    except BadImage as error:
        return _Finding(reason=error.reason, is_lasting=False)
    digest = hashlib.sha256(content).digest()[:16]
    try:
        pixels, mode = decode_with_mode(content, path="", max_pixels=max_pixels, min_side=min_side)
    except BadImage as error:
        return _Finding(digest=digest, reason=error.reason)
    return _Finding(digest, thumbnail(pixels).tobytes(), pixels.shape[1], pixels.shape[2], mode)


@final
class _Ledger:
    """The findings for one index, including those of earlier checks."""

    def __init__(self, index: Index, cache: Path, *, limits: tuple[int, int]) -> None:
        root = index.root if is_remote(index.root) else os.path.realpath(index.root)
        name = repr((root, index.name, decoder_version(), limits, ROW.descr))
        self._file = cache / f"check-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:24]}.rows"
        self.findings = Findings(len(index), folder=cache)
        self.known = np.zeros(len(index), dtype=bool)
        self._lasting = np.zeros(len(index), dtype=bool)
        self._keys = _keys(index)
        self._recall()

    def enter(self, i: int, finding: "_Finding | Lost", noise: str) -> None:
        """Record the finding for image `i`."""
        if isinstance(finding, Lost):
            finding = _Finding(reason=finding.reason, is_lasting=False)
        warning = printable(" ".join(noise.split()))[:200]
        if any(word in warning for word in JPEG_DAMAGE):
            finding = finding._replace(mode="", reason=f"damaged: {warning}")
        texts = {"mode": finding.mode, "reason": finding.reason, "warning": warning}
        self.findings.enter(
            i,
            key=self._keys[i],
            digest=finding.digest,
            thumbnail=np.frombuffer(finding.thumbnail, dtype=np.uint8).reshape(THUMBNAIL),
            height=finding.height,
            width=finding.width,
            **{column: self.findings.code(text) for column, text in texts.items()},
        )
        self.known[i], self._lasting[i] = True, finding.is_lasting

    def passing(self) -> np.ndarray:
        """Return the images for which another try may give another finding."""
        return np.flatnonzero(self.known & ~self._lasting)

    def save(self) -> None:
        """Save the lasting findings for the next check."""
        num_bytes = int((self.known & self._lasting).sum()) * ROW.itemsize
        write_file(self._file, self._saved(), num_bytes=num_bytes)

    def _saved(self) -> Iterator[bytes]:
        """Yield a line of JSON, the rows, and the CRC-32 of both."""
        head = json.dumps(self.findings.texts).encode() + b"\n"
        yield head
        crc = zlib.crc32(head)
        for places, rows in self.findings.parts():
            part = rows[(self.known & self._lasting)[places]].tobytes()
            yield part
            crc = zlib.crc32(part, crc)
        yield crc.to_bytes(_CRC_BYTES)

    def _recall(self) -> None:
        """Load the saved findings for files that are unchanged; none if the cache is damaged."""
        order = np.argsort(self._keys).astype(np.int32)
        keys = self._keys[order]
        try:
            with open(self._file, "rb") as stream:
                num_bytes = os.fstat(stream.fileno()).st_size - _CRC_BYTES
                head = stream.readline()
                crc = zlib.crc32(head)
                texts = json.loads(head)
                while (left := num_bytes - stream.tell()) > 0:
                    part = stream.read(min(left, PART_ROWS * ROW.itemsize))
                    crc = zlib.crc32(part, crc)
                    rows = np.frombuffer(part, dtype=ROW)
                    nearest = np.minimum(np.searchsorted(keys, rows["key"]), len(keys) - 1)
                    same = keys[nearest] == rows["key"]
                    self.findings.put(order[nearest[same]], rows[same])
                    self.known[order[nearest[same]]] = True
                is_whole = crc.to_bytes(_CRC_BYTES) == stream.read()
        except (OSError, ValueError):
            is_whole, texts = False, []
        self.known &= is_whole
        self._lasting = self.known.copy()
        for text in texts if is_whole else []:
            self.findings.code(text)


def _keys(index: Index) -> np.ndarray:
    """Return hashes of path, size and modification time, `S16` [n], as in `findings.ROW`."""
    keys = bytearray(16 * len(index))
    for i, (path, size, mtime) in enumerate(index.entries()):
        keys[16 * i : 16 * i + 16] = hashlib.blake2b(b"%d %d %s" % (size, mtime, path), digest_size=16).digest()
    return np.frombuffer(keys, dtype="S16")
