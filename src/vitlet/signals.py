"""Signals that ask a job to stop: a training finishes its step and saves, everything else stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vitlet.errors import StoppedError
from vitlet.host import has_agent, outlive_termination

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopFlag:
    """Set by a signal, read at the step boundary; the handler does nothing else."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if self.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once; files are safe, the step is lost
        self.signal_number = number


@contextmanager
def listening() -> Iterator[StopFlag]:
    """Catch SIGTERM, SIGINT and SIGUSR1 in a flag; restore the previous handlers afterwards.

    A rank of torchrun that was asked to stop ends by itself from then on.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    former = {number: signal.signal(number, flag) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is flag:  # nobody has decided otherwise; see `outlive_termination`
                signal.signal(number, handler)
        if flag.signal_number and has_agent():  # if the agent dies, the kernel signals once for each of its threads
            outlive_termination()


class _Stop(BaseException):
    """Raised wherever a signal finds the program; no Exception, which validators and decoders take for bad input."""


@contextmanager
def stopping_at_once(place: str) -> Iterator[Callable[[], None]]:
    """Turn SIGTERM and SIGUSR1 into a StoppedError that names `place`, where several runs are; see `listening` for one.

    Outside the main thread, where Python allows no handlers, and within a block like this nothing changes.

    Yields:
        A function for the time between two runs. It raises again if the signal came in a finalizer, which Python lets
        raise nothing.
    """
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise _Stop

    def raise_if_stopped() -> None:
        if stopped:
            raise _Stop

    is_main = threading.current_thread() is threading.main_thread()
    mine = [n for n in (signal.SIGTERM, signal.SIGUSR1) if is_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        try:
            yield raise_if_stopped
        finally:
            for number in mine:
                if signal.getsignal(number) is stop:
                    signal.signal(number, signal.SIG_DFL)
    except _Stop:
        raise StoppedError(stopped[0], step=None, run=place) from None
