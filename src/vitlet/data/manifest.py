"""Tables of images (manifests): `path[,label][,split]`, as CSV or Parquet, with paths relative to the table.

CSV is read in all variants that spreadsheets write: with a byte order mark, semicolons or tabs, quotes, CRLF. All
problems with the rows are reported together, with line numbers.
"""

import array
import csv
import os
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitlet.data.columns import Writer
from vitlet.data.splits import SPLITS, TRAIN, code_of
from vitlet.disk import is_inside
from vitlet.errors import DataError
from vitlet.text import did_you_mean, plural, printable

_COLUMNS = ("path", "label", "split")
_MAX_SHOWN = 20
_KNOWN_FOLDERS = 16_384
_BATCH_ROWS, _READ_BYTES = 8192, 2**20


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


def add_manifest(file: Path, *, writer: Writer, follow_outside: bool) -> None:
    """Add the images listed in `file` (.csv, .tsv or .parquet), in the byte order of their paths.

    Raises:
        DataError: if a column is missing or unknown, or for wrong rows: lists up to 20 of them with their lines.
    """
    problems = _Problems(file)
    rows = _parquet_rows(file) if file.suffix.lower() == ".parquet" else _csv_rows(file, problems)
    locate = _locator(file.parent, follow_outside=follow_outside)
    lines = array.array("q")
    for row in rows:
        if _add_row(row, locate, problems, writer):
            lines.append(row.line)

    def repeated(path: bytes, former: int, later: int) -> None:
        problems.add(lines[later], f"{printable(path)} is already in line {lines[former]}")

    order = writer.sort(repeated)
    _check_labels(writer, np.frombuffer(lines, dtype=np.int64), order, problems)
    problems.stop_if_any()
    if not len(writer):
        raise DataError("no images", where=printable(file), why="The table has no rows", fix="add rows to it")


def require_columns(file: Path) -> None:
    """Refuse a table without the columns of one, before the rest of it is read.

    A Parquet table with a column of structs may hold the images itself; `rows` looks into it.

    Raises:
        DataError: as `add_manifest`.
    """
    if file.suffix.lower() == ".parquet":
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise _no_parquet(file, error) from error
        if not any(pa.types.is_struct(column.type) for column in schema):
            _places(schema.names, file)
        return
    next(_csv_rows(file, _Problems(file)), None)  # the first row is behind the check


@final
class _Problems:
    """The problems with a table; the first 20 are shown."""

    def __init__(self, file: Path) -> None:
        self._file, self._shown, self._count = file, [], 0

    def add(self, line: int, what: str) -> None:
        self._count += 1
        if len(self._shown) < _MAX_SHOWN:
            self._shown.append((line, what))

    def stop_if_any(self) -> None:
        if self._count:
            lines = "".join(f"\n  line {line}: {what}" for line, what in sorted(self._shown))
            more = self._count - len(self._shown)
            raise DataError(
                plural(self._count, "problem"),
                where=printable(self._file),
                why="In the table:" + lines + (f"\n  and {more:,} more" if more else ""),
                fix="correct these lines",
            )


def _add_row(row: _Row, locate: Callable[[str], os.stat_result | str], problems: _Problems, writer: Writer) -> bool:
    """Add the image of a row; False if there is a problem with it."""
    word = row.split.strip()
    split = code_of(word) if word else TRAIN
    if split is None:
        hint = did_you_mean(word.lower(), SPLITS)
        problems.add(row.line, f"{printable(row.split)} is not a split. {printable(hint)}")
    status = locate(row.path)
    if isinstance(status, str):
        problems.add(row.line, status)
    if split is None or isinstance(status, str):
        return False
    label = os.fsencode(row.label) if row.label else None
    writer.add(os.fsencode(row.path), label=label, split=split, size=status.st_size, mtime=status.st_mtime_ns)
    return True


def _locator(folder: Path, *, follow_outside: bool) -> Callable[[str], os.stat_result | str]:
    """Return a function from a path in the table to the file's status, or to a sentence on what is wrong with it."""
    real_folder = os.path.realpath(folder)

    @lru_cache(_KNOWN_FOLDERS)  # resolving links takes longer than everything else here
    def is_folder_in_reach(parent: str) -> bool:
        return is_inside(os.path.realpath(parent), real_folder)

    def is_in_reach(place: str) -> bool:
        if not is_folder_in_reach(os.path.dirname(place)):
            return False
        return not os.path.islink(place) or is_inside(os.path.realpath(place), real_folder)

    def locate(path: str) -> os.stat_result | str:
        if not path:
            return "the path is empty"
        place = os.path.join(folder, path)
        try:
            status = os.stat(place)
            if not follow_outside and not is_in_reach(place):
                return f"{printable(path)} lies outside the table's folder; --follow-outside reads it"
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            return f"{printable(path)}: {getattr(error, 'strerror', None) or error}"
        return status if stat.S_ISREG(status.st_mode) else f"{printable(path)} is not a regular file"

    return locate


def _check_labels(writer: Writer, lines: np.ndarray, order: np.ndarray, problems: _Problems) -> None:
    """Refuse -1 if the labels are numbers: elsewhere it means "no label", here it would become a class."""
    classes = writer.classes
    if b"-1" in classes and all(label.lstrip(b"-").isdigit() for label in classes):
        for i in np.flatnonzero(writer.labels(classes) == classes.index(b"-1")):
            problems.add(int(lines[order[i]]), "label -1 is out of range; leave the cell empty where there is no label")


def _csv_rows(file: Path, problems: _Problems) -> Iterator[_Row]:
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            first = stream.readline()
            if "\0" in first or first.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                raise DataError(
                    "not a CSV file in UTF-8", where=printable(file), fix="save it as CSV UTF-8 (comma delimited)"
                )
            delimiter = max(",;\t", key=first.count)
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
            places = _places(header, file)
            reader = csv.reader(stream, delimiter=delimiter)
            while True:
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    problems.add(reader.line_num + 1, str(error))
                    continue
                if cells is None:
                    return
                if cells and len(cells) != len(header):
                    problems.add(reader.line_num + 1, f"{len(cells)} cells; the header has {len(header)}")
                elif cells:
                    yield _Row(reader.line_num + 1, *(cells[p] if p is not None else "" for p in places))
    except OSError as error:
        raise DataError(
            f"cannot read {printable(file)}", why=error.strerror or str(error), fix="make the file readable"
        ) from error


def _places(header: list[str], file: Path) -> list[int | None]:
    """Return the positions of path, label and split among the columns."""
    unknown = [name for name in header if name not in _COLUMNS]
    if "path" not in header or unknown or len(set(header)) < len(header):
        wrong = f"unknown: {', '.join(map(repr, unknown))}. {did_you_mean(unknown[0], _COLUMNS)}" if unknown else ""
        raise DataError(
            "the columns are not path[,label][,split]",
            where=printable(file),
            why=printable(wrong or f"found: {', '.join(header)}").rstrip(". "),
            fix="the first line names the columns: path,label,split (the last two may be left out)",
        )
    return [header.index(name) if name in header else None for name in _COLUMNS]


def _parquet_rows(file: Path) -> Iterator[_Row]:
    """Yield the rows of a Parquet table, with the line numbers that they would have in a CSV file."""
    try:
        table = pq.ParquetFile(file, buffer_size=_READ_BYTES)  # otherwise a column of a whole row group is read at once
        schema = table.schema_arrow
        _places(schema.names, file)
        line = 2
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            columns = [
                batch.column(name).cast(pa.string()).to_pylist() if name in schema.names else [None] * len(batch)
                for name in _COLUMNS
            ]
            for path, label, split in zip(*columns, strict=True):
                yield _Row(line, path or "", label or "", split or "")
                line += 1
        pa.default_memory_pool().release_unused()  # otherwise 14 MB stay allocated, whatever the size
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(file, error) from error


def _no_parquet(file: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read {printable(file)} as Parquet",
        why=printable(str(error)[:200]),
        fix="write or copy the table again, or give it as .csv",
    )
