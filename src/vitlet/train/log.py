"""A run's output during training: metrics.jsonl, log.txt, TensorBoard and the terminal.

Metrics are append-only; on resume they are truncated to the length recorded in the checkpoint, so no step appears
twice. A log that cannot be written costs one warning, never the run.
"""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitlet.choices import TrackerName
from vitlet.disk import storage_error
from vitlet.host import is_first_rank
from vitlet.run import Run
from vitlet.text import printable
from vitlet.train.trackers import numbers_of, open_tracker

_PLAIN_LINE_SECONDS = 15.0


def finite_or_null(value: Any) -> Any:
    """Replace every NaN and infinity in `value` by None, since JSON cannot represent them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite_or_null(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(v) for v in value]
    return value


class MetricsLog:
    """metrics.jsonl, and its copies for TensorBoard and the requested trackers."""

    def __init__(self, run: Run, *, offset: int, trackers: Sequence[TrackerName] = ()) -> None:
        """Truncate the file to `offset` bytes (or to what exists) and append from there.

        `trackers` receive every row too; they need the run's recipe on disk.

        Raises:
            ResourceError: if the file cannot be opened for writing.
        """
        self.run = run
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            self._file = os.open(run.metrics_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._length = min(offset, os.fstat(self._file).st_size)
            os.ftruncate(self._file, self._length)
        except OSError as error:
            raise storage_error(error, run.metrics_file, 0) from error
        self._failed = False
        self._board: _Board | None = None
        self._trackers = [open_tracker(name, run) for name in trackers]

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object; a line that does not fit on the disk is omitted entirely."""
        line = json.dumps(finite_or_null(row), allow_nan=False).encode() + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._length += len(line)
        except OSError as error:
            os.ftruncate(self._file, self._length)
            self._warn_once(error)
        self._board = self._board or _Board(self.run.path / "tensorboard", first_step=int(row["step"]))
        self._board.write(row)
        for tracker in self._trackers:
            tracker.write(row)

    def offset(self) -> int:
        """Flush everything to disk and return the length of the file."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._warn_once(error)
        return self._length

    def close(self) -> None:
        """Close the file and the trackers."""
        os.close(self._file)
        for tracker in self._trackers:
            tracker.close()

    def _warn_once(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            text = f"warning: cannot write {printable(self.run.metrics_file)}: {error.strerror}. Training goes on."
            with contextlib.suppress(OSError):  # stderr may lead to the same disk
                Console(stderr=True, soft_wrap=True).print(text, markup=False)


class _Board:
    """A copy of the metrics for TensorBoard, which falls silent for good if it cannot be written.

    The records are TensorBoard's own. Its `SummaryWriter` is not used: it starts a thread in a process that forks
    workers, and prints a traceback when the disk is full.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Steps from `first_step` on replace those of an earlier attempt."""
        # Imported here, so that only runs that log pay for it. Its classes are created at import.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, RecordWriter
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}"
        self._is_silent = False
        self._put(file_version="brain.Event:2")
        self._put(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one row of metrics."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers_of(row).items()]
        self._put(step=int(row["step"]), summary=self._summary(value=values))

    def _put(self, **content: Any) -> None:
        if self._is_silent:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab", buffering=0) as records:
                self._writer(records).write(self._event(wall_time=time.time(), **content).SerializeToString())
        except OSError:
            self._is_silent = True


class Teller:
    """Lines for the terminal and log.txt; a progress bar on a terminal, occasional lines elsewhere."""

    def __init__(self, run: Run | None = None, *, quiet: bool = False) -> None:
        """`run` receives log.txt; `quiet` silences the terminal, as do all ranks but the first."""
        self.console = Console(quiet=quiet or not is_first_rank(), highlight=False, soft_wrap=True)
        self.run = run

    def say(self, text: str) -> None:
        """Print one line, with control characters escaped."""
        with contextlib.suppress(OSError):  # stdout may lead to a full disk
            self.console.print("\n".join(printable(line) for line in text.split("\n")), markup=False)
        if self.run is not None:
            try:
                with self.run.log_file.open("a", encoding="utf-8") as log:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    log.write(f"{stamp} {printable(text)}\n")
            except OSError:
                self.run = None  # a full disk must not end the run for a log line

    @contextlib.contextmanager
    def progress(self, title: str, *, total: int, done: int = 0) -> Iterator["Ticker"]:
        """Show the progress of `title` and the time left."""
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
        """Report `done` of the total, with a short note."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._first is None or done < self._first:  # work that began anew after an interruption goes back
            self._first, self._started = done, now
        if now - self._told < _PLAIN_LINE_SECONDS or done == self._first:
            return
        self._told = now
        left = (now - self._started) / (done - self._first) * (self._total - done)
        self._teller.say(f"{self._title}: {done}/{self._total}, {left:.0f} s left  {note}".rstrip())
