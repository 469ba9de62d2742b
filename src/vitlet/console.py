"""What a job says: lines and progress on the terminal, and in log.txt of its run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vitlet.host import is_first_rank
from vitlet.run import Run
from vitlet.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_LINE_SECONDS = 15.0


class Terminal(Console):
    """Where lines are printed as they are. Once nobody reads them, as after `| head`, it is silent and work goes on."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        """Write to stderr, or to stdout, which of several ranks belongs to the first; nothing if `quiet`."""
        is_mine = stderr or is_first_rank()
        super().__init__(stderr=stderr, quiet=quiet or not is_mine, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Fall silent; rich would end the process."""
        self.quiet = True
        with contextlib.suppress(OSError):  # what is left in the stream's buffer must not fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def say_error(message: str) -> None:
    """Print why a command fails, on stderr of any rank."""
    Terminal(stderr=True).print(f"error: {message}", markup=False)


class Teller:
    """Lines for the terminal and log.txt; a progress bar on a terminal, occasional lines elsewhere."""

    def __init__(self, run: Run | None = None, *, quiet: bool = False) -> None:
        """`run` receives log.txt; `quiet` silences the terminal, as do all ranks but the first."""
        self.console = Terminal(quiet=quiet)
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
    def progress(self, title: str, *, total: int, done: int = 0) -> Iterator[Ticker]:
        """Show the progress of `title` and the time left."""
        if not self.console.is_terminal:
            yield Ticker(self, title, total=total)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
