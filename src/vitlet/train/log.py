"""What a run says while it goes on: metrics.jsonl, log.txt, TensorBoard and the terminal.

Metrics are append-only; on resume they are cut back to the length the checkpoint remembers, so no step stands there
twice. A log that cannot be written costs one warning, never the run.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitlet.run import Run
from vitlet.text import printable

_PLAIN_LINE_SECONDS = 15.0


def finite_or_null(value: Any) -> Any:
    """`value` with every NaN and infinity replaced by None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite_or_null(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(v) for v in value]
    return value


class MetricsLog:
    """metrics.jsonl, and its copy for TensorBoard."""

    def __init__(self, run: Run, *, offset: int) -> None:
        """Cut the file to `offset` bytes and append from there."""
        run.path.mkdir(parents=True, exist_ok=True)
        self.run = run
        self._file = run.metrics_file.open("ab")
        self._file.truncate(offset)
        self._file.seek(0, os.SEEK_END)
        self._failed = False
        self._board: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        line = json.dumps(finite_or_null(row), allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            self._to_board(row)
        except OSError as error:
            self._warn_once(error)

    def offset(self) -> int:
        """Length of the file once everything written is on the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._warn_once(error)
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Release the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _to_board(self, row: Mapping[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter  # half a second; only runs that log pay it

            self._board = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=int(row["step"]))
        flat = {**row, **{f"probe/{k}": v for k, v in row.get("probe", {}).items()}}
        for name, value in flat.items():
            if isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, int(row["step"]))

    def _warn_once(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            Console(stderr=True).print(
                f"warning: cannot write {printable(self.run.metrics_file)}: {error.strerror}. Training goes on.",
                markup=False,
            )


class Teller:
    """Lines for the terminal and log.txt; a progress bar where there is a terminal, now and then a line where not."""

    def __init__(self, run: Run | None = None, *, quiet: bool = False) -> None:
        """`run` receives log.txt; `quiet` keeps the terminal empty (all ranks but the first)."""
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.run = run

    def say(self, text: str) -> None:
        """One line, control characters escaped."""
        self.console.print("\n".join(printable(line) for line in text.split("\n")), markup=False)
        if self.run is not None:
            try:
                with self.run.log_file.open("a", encoding="utf-8") as log:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    log.write(f"{stamp} {printable(text)}\n")
            except OSError:
                self.run = None  # a full disk must not end the run for a log line

    @contextmanager
    def progress(self, title: str, *, total: int, done: int = 0) -> Iterator["Ticker"]:
        """Show how far `title` is, with the time left."""
        if not self.console.is_terminal:
            yield Ticker(self, title, total=total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield Ticker(self, title, total=total, bar=bar, task=task)


class Ticker:
    """One running progress display."""

    def __init__(
        self, teller: Teller, title: str, *, total: int, bar: Progress | None = None, task: Any = None
    ) -> None:
        """Without a `bar`, prints a plain line every 15 seconds."""
        self._teller, self._title, self._total, self._bar, self._task = teller, title, total, bar, task
        self._started = self._told = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, note: str = "") -> None:
        """`done` of the total, with a few words of news."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._told < _PLAIN_LINE_SECONDS or done == self._first:
            return
        self._told = now
        left = (now - self._started) / (done - self._first) * (self._total - done)
        self._teller.say(f"{self._title}: {done}/{self._total}, {left:.0f} s left  {note}".rstrip())
