"""What a check found out about each image: one row an image, in a file without a name and not in memory.

A million rows are 124 MB. They are written one by one, read in parts through a map, and what was read is let go of.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.columns import cache_error, let_go
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
"""`key` is a hash of path, size and time of change, `digest` one of the bytes. Mode, reason and warning count in a
table of texts, 0 is none. An image without mode is bad.
"""

PART_ROWS = 16_384


@final
class Findings:
    """One `ROW` an image, all zero until it is written."""

    def __init__(self, length: int, *, folder: Path) -> None:
        """`length` rows in a temporary file in `folder`.

        Raises:
            ResourceError: if it cannot be made.
        """
        self.texts: list[str] = [""]
        """What `mode`, `reason` and `warning` count in."""
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
        """The place of `text` in `texts`, where it now stands."""
        code = self._codes.setdefault(text, len(self.texts))
        if code == len(self.texts):
            self.texts.append(text)
        return code

    def enter(self, i: int, **values: Any) -> None:
        """Write row `i`; what `values` does not name is zero.

        Raises:
            ResourceError: if the disk is full.
        """
        self._row[...] = np.zeros((), dtype=ROW)
        for name, value in values.items():
            self._row[name] = value
        self._put(i, self._row)

    def put(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Write whole rows; those whose places follow one another at once.

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
        """All rows in order, 16,384 at a time, with their places; good until the next part is asked for."""
        for start in range(0, len(self), PART_ROWS):
            places = slice(start, min(start + PART_ROWS, len(self)))
            yield places, self._rows[places]
            let_go(self._map)

    def column(self, name: str) -> np.ndarray:
        """One field of all rows."""
        values = np.empty(len(self), dtype=ROW[name])
        for places, rows in self.parts():
            values[places] = rows[name]
        return values

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One field of some rows, in the order of `rows`."""
        values = self._rows[name][rows]
        let_go(self._map)
        return values
