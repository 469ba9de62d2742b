"""Processes that train and probe, each one call at a time. They start at once, and none is left behind.

On Linux they are forked from a server that has imported what they need: imports take seconds, a command has several
pools, and forked processes share that memory.

The executor of the standard library hangs when a training has to save before it ends: it ends the others by a signal
and waits for all of them to take a next call (`docs/decisions/0010`).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, final

from vitlet.errors import StoppedError, VitletError, WorkerError
from vitlet.host import cause_of_end, take_cores
from vitlet.signals import stopping_at_once

_IMPORTED = ["vitlet.jobs.served"]
_NOT_THEIRS = ("RANK", "WORLD_SIZE")
"""Variables of torchrun: what a process of a pool does, it does alone."""


@final
class Pool:
    """`count` processes of `threads` threads each."""

    def __init__(self, count: int, *, threads: int) -> None:
        self._count, self._threads = max(1, count), max(1, threads)
        self._every: list[_Process] = []
        self._idle: list[_Process] = []
        self._busy: dict[Any, _Process] = {}

    @property
    def free(self) -> int:
        """How many more calls can begin now."""
        return self._count - len(self._busy)

    @property
    def running(self) -> frozenset[Any]:
        """Names of the calls under way."""
        return frozenset(self._busy)

    def begin(self, name: Any, work: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Begin a call; `name` tells its result from others.

        Raises:
            WorkerError: if the process does not start.
        """
        process = self._idle.pop() if self._idle else self._start()
        self._busy[name] = process
        with contextlib.suppress(OSError):  # it is gone, which `ended` will tell
            process.pipe.send((work, arguments, named))

    def ended(self, seconds: float) -> dict[Any, Any]:
        """Wait for a call to end, at most this long, and return the results of those that did.

        Raises:
            WorkerError: if a process ended without a result.
            Exception: of a call that failed.
        """
        ready = wait([process.pipe for process in self._busy.values()], timeout=seconds)
        return {name: self._answer(name) for name, process in list(self._busy.items()) if process.pipe in ready}

    def finish(self) -> None:
        """Wait for the calls under way; what they answer is lost."""
        for name, process in list(self._busy.items()):
            with contextlib.suppress(EOFError, OSError):
                process.pipe.recv()
            del self._busy[name]

    def stop(self) -> None:
        """Ask the processes of the calls under way to stop: a training takes its step, saves and ends."""
        for process in list(self._busy.values()):
            process.handle.terminate()

    def close(self) -> None:
        """Let every process go when it has ended its call, and wait for that."""
        for process in self._every:
            process.pipe.close()
        for process in self._every:
            process.handle.join()

    def _start(self) -> "_Process":
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}
        try:
            context = _starting()
            ours, theirs = context.Pipe()
            handle = context.Process(target=_serve, args=(theirs, self._threads, environment))
            handle.start()
        except (EOFError, OSError) as error:
            raise WorkerError("a process did not start", why=repr(error), fix="free memory, and try again") from error
        theirs.close()  # so that the end of the process is the end of the pipe
        self._every.append(process := _Process(handle, ours))
        return process

    def _answer(self, name: Any) -> Any:
        process = self._busy.pop(name)
        try:
            failed, answer = process.pipe.recv()
        except (EOFError, OSError):
            process.handle.join()
            raise WorkerError(
                "a process that trained or probed ended without a result",
                where=cause_of_end(process.handle.exitcode),
                why="Systems end processes where memory is short, and none starts from a script that calls vitlet at "
                "its top level",
                fix="free memory, or put the script's calls under if __name__ == '__main__'; finished runs are kept",
            ) from None
        self._idle.append(process)
        if failed:
            raise answer
        return answer


@contextlib.contextmanager
def processes(count: int, *, threads: int) -> Iterator[Pool]:
    """Yield a pool. After a call that failed, those under way finish; after a signal or another error they stop."""
    pool = Pool(count, threads=threads)
    try:
        with stopping_at_once(""):
            try:
                yield pool
            except VitletError as error:
                if not isinstance(error, StoppedError):
                    pool.finish()
                raise
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.close()


@dataclass(frozen=True)
class _Process:
    handle: Any
    pipe: Connection


def _starting() -> Any:
    """Return how a process starts.

    A signal to all processes of a command is for those that work. The server hears none, for its children would count
    as lost with it; it ends when nobody is left who could ask it.
    """
    if sys.platform != "linux":  # frameworks of macOS do not bear a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    resource_tracker.ensure_running()  # which the server would start too, and that would let signals through again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    safe = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # else the server would look for its modules in the current folder first
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        os.environ |= {} if safe is None else {"PYTHONSAFEPATH": safe}
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
    return context


def _serve(pipe: Connection, threads: int, environment: Mapping[str, str]) -> None:
    """Make calls until nobody is there to ask for them, with this many cores and these variables."""
    import torch

    os.environ.clear()  # a server has the variables of the time when it began
    os.environ.update(environment)
    take_cores(threads)
    torch.set_num_threads(threads)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if sys.platform == "linux":  # where the server could import `served`, they are heard already
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # Ctrl-C is the parent's to answer
        while True:
            work, arguments, named = pipe.recv()
            pipe.send(_called(work, arguments, named))


def _called(work: Callable[..., Any], arguments: Any, named: Mapping[str, Any]) -> tuple[bool, Any]:
    try:
        return False, work(*arguments, **named)
    except VitletError as error:
        return True, error
    except Exception as error:  # a bug, which is the caller's to raise: with it unanswered the caller would wait
        error.add_note(traceback.format_exc())
        return True, error


def _stop_with_parent() -> None:
    """Stop if the parent is gone: a training saves, and finds nobody who asks for more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
