"""Pools of processes that train and probe. They start at once and end with their parent.

On Linux they are forked from a server that has imported what they need: imports take seconds, a command has several
pools, and a process that is forked shares that memory.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

from vitlet.errors import WorkerError
from vitlet.host import take_cores

_IMPORTED = ["vitlet.jobs.comparing", "vitlet.evaluate.logistic"]


@contextmanager
def processes(count: int, *, threads: int) -> Iterator[Executor]:
    """Yield a pool of `count` processes of `threads` threads each, at least one; they end with this one.

    Raises:
        WorkerError: if one of them ends without a result.
    """
    begin = (max(1, threads), dict(os.environ))
    try:
        with ProcessPoolExecutor(count, mp_context=_starting(), initializer=_begin, initargs=begin) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that trained or probed ended without a result",
            why="Systems end processes where memory is short, and none starts from a script that calls vitlet at its "
            "top level",
            fix="free memory, or put the script's calls under if __name__ == '__main__'; finished runs are kept",
        ) from error


def end_children() -> None:
    """Ask every process of a pool to stop: a training takes its step, saves and ends."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _starting() -> BaseContext:
    """Return how a process starts.

    A signal that reaches all processes of a command, as Ctrl-C does, ends those that train, and they save first. The
    server hears none, for its children would count as lost with it; it ends when no process needs it.
    """
    if sys.platform != "linux":  # frameworks of macOS do not bear a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    resource_tracker.ensure_running()  # which the server would start too, and that would let signals through again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
    return context


def _begin(threads: int, environment: Mapping[str, str]) -> None:
    """Take this many cores and the parent's variables, and exit with it, so that no run survives it unnoticed.

    A thread of the parent starts these processes: what `host.end_with_parent` asks for would come as soon as it ends.
    """
    import torch

    os.environ.clear()
    os.environ.update(environment)
    take_cores(threads)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came in the meantime comes now


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
