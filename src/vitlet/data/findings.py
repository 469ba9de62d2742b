"""The findings of a check: one row per image, in an unnamed temporary file instead of memory.

A million rows are 124 MB. They are written one by one and read in parts through a map, whose pages are then released.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.columns import cache_error, release_pages
from vitlet.data.duplicates import THUMBNAIL

ROW = np.dtype(
    [
        ("key", "S16"),
        ("digest", "S16"),
        ("thumbnail", "u1", THUMBNAIL),
        ("height", "i4"),
        ("width", "i4"),
        ("mode", "i4"),
        ("reason", "i4"),
        ("warning", "i4"),
    ]
)
"""`key` is a hash of path, size and modification time, `digest` one of the bytes. Mode, reason and warning are codes,
positions in `Findings.texts`; 0 stands for none. An image without a mode is bad.
"""

PART_ROWS = 16_384


@final
class Findings:
    """One `ROW` per image, all zero until it is written."""

    def __init__(self, length: int, *, folder: Path) -> None:
        """Create `length` rows in a temporary file in `folder`.

        Raises:
            ResourceError: if that fails.
        """
        self.texts: list[str] = [""]
        """Lookup table for the codes in `mode`, `reason` and `warning`."""
        self._codes = {"": 0}
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            os.ftruncate(self._file.fileno(), length * ROW.itemsize)
        except OSError as error:
            raise cache_error(error, folder) from error
        weakref.finalize(self, self._file.close)
        self._map = mmap(self._file.fileno(), 0, access=ACCESS_READ)
        self._rows = np.frombuffer(self._map, dtype=ROW)
        self._row = np.zeros((), dtype=ROW)

    def __len__(self) -> int:
        return len(self._rows)

    def code(self, text: str) -> int:
        """Return the code of `text`, which is added to `texts` if necessary."""
        code = self._codes.setdefault(text, len(self.texts))
        if code == len(self.texts):
            self.texts.append(text)
        return code

    def enter(self, i: int, **values: Any) -> None:
        """Write row `i`; fields missing from `values` are zero.

        Raises:
            ResourceError: if the disk is full.
        """
        self._row[...] = np.zeros((), dtype=ROW)
        for name, value in values.items():
            self._row[name] = value
        self._put(i, self._row)

    def put(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Write whole rows; consecutive ones together.

        Raises:
            ResourceError: if the disk is full.
        """
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        for run in np.split(np.arange(len(places)), breaks) if len(places) else []:
            self._put(int(places[run[0]]), rows[run[0] : run[-1] + 1])

    def _put(self, start: int, rows: np.ndarray) -> None:
        try:
            os.pwrite(self._file.fileno(), rows.tobytes(), start * ROW.itemsize)
        except OSError as error:
            raise cache_error(error, self._folder) from error

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield all rows in order, 16,384 at a time, with their positions; each part is valid until the next."""
        for start in range(0, len(self), PART_ROWS):
            places = slice(start, min(start + PART_ROWS, len(self)))
            yield places, self._rows[places]
            release_pages(self._map)

    def column(self, name: str) -> np.ndarray:
        """Return one field of all rows."""
        values = np.empty(len(self), dtype=ROW[name])
        for places, rows in self.parts():
            values[places] = rows[name]
        return values

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return one field of some rows, in the order of `rows`."""
        values = self._rows[name][rows]
        release_pages(self._map)
        return values
