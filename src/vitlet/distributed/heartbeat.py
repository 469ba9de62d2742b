"""The heartbeat of a rank: it tells the others that its process runs, however long its work takes."""

import threading
import time
from typing import Any

import torch
import torch.distributed as dist

_SECONDS = 0.5


class Heartbeat:
    """Tells the other ranks twice a second that this process runs, and how many meetings it has come to.

    A process that works keeps this up however long it takes; one that is frozen or cut off is missed after the timeout.
    """

    def __init__(self, group: Any) -> None:
        self._group, self._came, self._all_came, self._leaves = group, 0, 0, False
        self._lost: RuntimeError | None = None
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Wait until every rank has come, for as long as all of them have a heartbeat."""
        self._came += 1
        self._news.set()
        while self._all_came < self._came and not self._lost:
            time.sleep(0.01)
        if self._all_came < self._came and self._lost:
            raise self._lost

    def require(self) -> None:
        """Raise if a rank is known to be lost; wait for none."""
        if self._lost:
            raise self._lost

    def leave(self) -> None:
        """End the heartbeats of all ranks."""
        self._leaves = True
        self._news.set()
        self._thread.join()

    def _beat(self) -> None:
        try:
            while not self._lost:
                if (
                    self._came == self._all_came
                ):  # otherwise the slower ranks set the pace, and the last one waits for none
                    self._news.wait(_SECONDS)
                self._news.clear()
                told = torch.tensor([self._came, not self._leaves])
                dist.all_reduce(told, op=dist.ReduceOp.MIN, group=self._group)
                self._all_came, all_stay = told.tolist()
                if not all_stay:
                    self._lost = RuntimeError("A rank has left")
        except RuntimeError as error:
            self._lost = error
