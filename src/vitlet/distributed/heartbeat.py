"""The heartbeat of a rank: it tells the others that its process runs, however long its work takes."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vitlet.console import say_error
from vitlet.distributed.watchdog import Watchdog
from vitlet.errors import WorkerError

_SECONDS = 0.5
_GRACE_SECONDS = 5.0
"""For an exchange to fail by itself after a loss, and for others to see that a rank is frozen before it is killed."""


class Heartbeat:
    """Tells the other ranks twice a second that this process runs, and how many meetings it has come to.

    A process that works keeps this up however long it takes; one that is frozen or cut off is missed after the timeout,
    and if it is frozen, its kernel kills it soon after that.
    """

    def __init__(self, group: Any, *, timeout: timedelta) -> None:
        self._group, self._came, self._all_came, self._leaves = group, 0, 0, False
        self._lost: RuntimeError | None = None
        self.loss: WorkerError | None = None
        """Who was missing when a rank was lost during an exchange; later others are gone too, because of it."""
        self._news = threading.Event()
        self._exchange: tuple[threading.Event, Callable[[RuntimeError], WorkerError]] | None = None
        self._watchdog = Watchdog(timeout.total_seconds() + _GRACE_SECONDS)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def exchange(self, explain: Callable[[RuntimeError], WorkerError]) -> Iterator[None]:
        """Let the ranks exchange something in the block.

        If a rank is lost during the block, and the block does not end by itself soon after that, this process ends as
        by an error that nobody catches: NCCL waits for a lost rank without noticing, and cannot be interrupted.

        Args:
            explain: The error, by what the library said.

        Raises:
            RuntimeError: if a rank is known to be lost.
        """
        is_over = threading.Event()
        self._exchange = is_over, explain
        try:
            if self._lost:
                raise self._lost
            yield
        finally:
            self._exchange = None
            is_over.set()

    def meet(self) -> None:
        """Wait until every rank has come, for as long as all of them have a heartbeat."""
        self._came += 1
        self._news.set()
        while self._all_came < self._came and not self._lost:
            time.sleep(0.01)
        if self._all_came < self._came and self._lost:
            raise self._lost

    def leave(self) -> None:
        """End the heartbeats of all ranks."""
        self._leaves = True
        self._news.set()
        self._thread.join()
        self._watchdog.end()

    def _beat(self) -> None:
        try:
            while not self._lost:
                # Otherwise the slower ranks set the pace, and the last one waits for none.
                if self._came == self._all_came:
                    self._news.wait(_SECONDS)
                self._news.clear()
                told = torch.tensor([self._came, not self._leaves])
                dist.all_reduce(told, op=dist.ReduceOp.MIN, group=self._group)
                self._all_came, all_stay = told.tolist()
                if not all_stay:
                    self._lost = RuntimeError("A rank has left")
        except RuntimeError as error:
            self._lost = error.with_traceback(None)  # whose frames hold the group
            dist.destroy_process_group(self._group)
            self._group = None  # closes its connections: the others miss a beat now, not when this process has ended
        if self._lost and (stuck := self._exchange):  # which none enters any more
            is_over, explain = stuck
            self.loss = explain(self._lost)
            if not is_over.wait(_GRACE_SECONDS):
                say_error(str(self.loss))
                os._exit(self.loss.exit_code)
