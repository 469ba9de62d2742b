"""Map a function over items in processes that may hang, crash or be killed without harm to the parent.

A pool of the standard library loses the whole map when one process dies, and waits for ever when one hangs. Here the
parent knows which item each process is working on: that item is given up, with the cause, and a new process continues
with the rest.
"""

import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch

from vitlet.errors import WorkerError
from vitlet.host import LOADING, cause_of_end, end_with_parent

_CHUNK = 32
_START_SECONDS = 120.0
_GRACE_SECONDS = 1.0


@final
@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item whose process hung or died."""

    reason: str


def parallel(
    work: Callable[[int], Any], items: Iterable[int], *, workers: int, timeout: float
) -> Iterator[tuple[int, Any, str]]:
    """Yield (item, result or `Lost`, text that libraries wrote to stderr), in no fixed order.

    Args:
        work: Called with one item at a time, in a process with one thread. Must not raise; must be picklable if
            processes are spawned.
        items: The items.
        workers: Number of processes, at least one: the calling process is never at risk.
        timeout: Seconds for one item.

    Raises:
        WorkerError: if a process does not even start.
    """
    assert workers >= 1
    yield from _Pool(work, iter(items), timeout).run(workers)


@final
@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    backlog: list[int]
    """Items to work on before new ones."""
    deadline: float
    is_ready: bool = False
    pending: list[int] = field(default_factory=list)
    """Items sent and not answered; the process is working on the first."""


@final
class _Pool:
    def __init__(self, work: Callable[[int], Any], items: Iterator[int], timeout: float) -> None:
        self._context = multiprocessing.get_context(LOADING)
        self._work, self._items, self._timeout = work, items, timeout
        self._running: list[_Worker] = []

    def run(self, workers: int) -> Iterator[tuple[int, Any, str]]:
        try:
            for _ in range(workers):
                self._start(list(itertools.islice(self._items, _CHUNK)))
            while self._running:
                soonest = min(worker.deadline for worker in self._running)
                ready = wait([w.pipe for w in self._running], timeout=max(0.0, soonest - time.monotonic()))
                for worker in list(self._running):
                    if worker.pipe in ready:
                        yield from self._receive(worker)
                    # A worker is not late if all processes were paused, or if the results were consumed slowly.
                    elif worker.deadline < time.monotonic() and not worker.pipe.poll(_GRACE_SECONDS):
                        yield self._replace(worker, f"no result after {self._timeout:g} s")
        finally:
            for worker in list(self._running):
                self._end(worker)

    def _start(self, backlog: list[int]) -> None:
        if not backlog:
            return
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._running.append(_Worker(process, ours, backlog, time.monotonic() + _START_SECONDS))

    def _receive(self, worker: _Worker) -> Iterator[tuple[int, Any, str]]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            yield self._replace(worker, f"the decoding process died ({cause_of_end(worker.process.exitcode)})")
            return
        if worker.is_ready:
            yield worker.pending.pop(0), *message
        worker.is_ready = True
        worker.deadline = time.monotonic() + self._timeout
        if not worker.pending:
            worker.pending = worker.backlog or list(itertools.islice(self._items, _CHUNK))
            worker.backlog = []
            if worker.pending:
                self._give(worker)
            else:
                self._end(worker)

    def _give(self, worker: _Worker) -> None:
        """Send the pending items. A process that was killed while it waited has started none of them: another process
        gets them, and no item is lost.
        """
        try:
            worker.pipe.send(worker.pending)
        except OSError:
            self._end(worker)
            self._start(worker.pending)

    def _replace(self, worker: _Worker, reason: str) -> tuple[int, Lost, str]:
        self._end(worker)
        if not worker.is_ready:
            fix = "free some memory, or --workers 1"
            if LOADING == "spawn":  # a process begins with the script that started it
                reason += ", and none starts from a script that calls vitlet at its top level"
                fix = f"put the script's calls under if __name__ == '__main__', or {fix}"
            raise WorkerError("a decoding process did not start", why=reason, fix=fix)
        self._start(worker.pending[1:] or list(itertools.islice(self._items, _CHUNK)))
        return worker.pending[0], Lost(reason), ""

    def _end(self, worker: _Worker) -> None:
        self._running.remove(worker)
        worker.process.kill()  # it holds nothing, and if it hangs it ignores gentler signals
        worker.process.join()
        worker.pipe.close()


def _serve(pipe: Connection, work: Callable[[int], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # A forked process has copies of the parent's ends of all pipes, so these do not show that the parent has ended.
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        return  # it ended before the call above
    torch.set_num_threads(1)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)  # C libraries write their warnings only there
        pipe.send(None)
        while True:
            try:
                items = pipe.recv()
            except EOFError:
                return
            for item in items:
                result = work(item)
                pipe.send((result, _take(noise.fileno())))


def _take(descriptor: int) -> str:
    if not os.fstat(descriptor).st_size:
        return ""
    text = os.pread(descriptor, 1000, 0).decode(errors="replace")
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return text
