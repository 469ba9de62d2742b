"""The numbers of a run during training: metrics.jsonl, its copy for TensorBoard, and the requested trackers.

Metrics are append-only; on resume they are truncated to the length recorded in the checkpoint, so no step appears
twice. A log that cannot be written costs one warning, never the run.
"""

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlet.choices import TrackerName
from vitlet.console import Terminal
from vitlet.disk import finite_or_null, storage_error
from vitlet.errors import StoppedError
from vitlet.run import Run
from vitlet.text import printable
from vitlet.train.trackers import Ending, numbers_of, open_tracker


class MetricsLog:
    """metrics.jsonl, and its copies for TensorBoard and the requested trackers."""

    def __init__(self, run: Run, *, offset: int, trackers: Sequence[TrackerName] = ()) -> None:
        """Truncate the file to `offset` bytes (or to what exists) and append from there.

        `trackers` receive every row too; they need the run's recipe and environment on disk.

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

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        has_failed = kind is not None and issubclass(kind, Exception) and not issubclass(kind, StoppedError)
        self.close("failed" if has_failed else "stopped" if kind else "finished")

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

    def close(self, ending: Ending = "finished") -> None:
        """Close the file and the trackers, which show how the run ended."""
        os.close(self._file)
        for tracker in self._trackers:
            tracker.close(ending)

    def _warn_once(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            text = f"warning: cannot write {printable(self.run.metrics_file)}: {error.strerror}. Training goes on."
            with contextlib.suppress(OSError):  # stderr may lead to the same disk
                Terminal(stderr=True).print(text, markup=False)


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
