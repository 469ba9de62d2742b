"""Reasons to interrupt training: signals, non-finite numbers and out-of-memory errors."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vitlet.errors import NonFiniteError, ResourceError, StoppedError

_NO_MEMORY = ("out of memory", "can't allocate memory")
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
            signal.signal(number, handler)


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
                signal.signal(number, signal.SIG_DFL)
    except _Stop:
        raise StoppedError(stopped[0], step=None, run=place) from None


def require_finite(*, step: int, loss: float, grad_norm: float, record: str) -> None:
    """Reject a step whose loss or gradient norm is NaN or infinite, before anything has changed.

    Raises:
        NonFiniteError: naming which of the two it was and the file that lists the images of the batch.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {grad_norm}"
    raise NonFiniteError(
        f"{what} at step {step}",
        where=record,
        why="The step was not taken and the last checkpoint is intact",
        fix="a lower learning rate (--set optimizer.base_lr=…), optimizer.clip_norm=1.0, or --precision fp32",
    )


@contextmanager
def memory_errors(*, batch_size: int) -> Iterator[None]:
    """Explain what to do when a step does not fit into memory.

    Raises:
        ResourceError: for a failed allocation on a GPU or the CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text for words in _NO_MEMORY):
            raise
        raise ResourceError(
            "not enough memory for a step",
            why=text.splitlines()[0] if text else "allocation failed",
            fix=f"--micro-batch {max(1, batch_size // 2)} keeps the global batch and its results, in smaller parts",
        ) from error
