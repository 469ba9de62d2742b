"""The watchdog of a rank: the kernel kills a process that has not run for too long, as nobody else may be there."""

import ctypes
import os
import signal
import sys
import threading

from vitlet.errors import ResourceError

_CLOCK_MONOTONIC, _SIGEV_SIGNAL = 1, 0  # of Linux' time.h and signal.h
_KICK_SECONDS = 1.0


class _SignalEvent(ctypes.Structure):
    """`struct sigevent`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _TimerSetting(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every", "every_ns", "after", "after_ns"))


class Watchdog:
    """Has the kernel kill this process once it has not run for some seconds, stopped as it may be; on Linux.

    The timer belongs to the process alone: those that it forks have none, and it ends with it.
    """

    def __init__(self, seconds: float) -> None:
        """Start it.

        Raises:
            ResourceError: if the kernel has no timer left.
        """
        self._seconds, self._timer, self._ended = seconds, ctypes.c_void_p(), threading.Event()
        self._thread = threading.Thread(target=self._kick, daemon=True)
        if sys.platform.startswith("linux"):
            self._kernel = ctypes.CDLL("librt.so.1", use_errno=True)
            death = _SignalEvent(signal=signal.SIGKILL, notify=_SIGEV_SIGNAL)
            if self._kernel.timer_create(_CLOCK_MONOTONIC, ctypes.byref(death), ctypes.byref(self._timer)):
                raise ResourceError(
                    "no timer for the watchdog", why=os.strerror(ctypes.get_errno()), fix="a higher ulimit -i"
                )
            self._put_off()
            self._thread.start()

    def end(self) -> None:
        """Let this process be stopped for as long as anyone likes."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            self._kernel.timer_delete(self._timer)

    def _put_off(self) -> None:
        seconds, rest = divmod(self._seconds, 1)
        left = _TimerSetting(after=int(seconds), after_ns=int(rest * 1e9))
        self._kernel.timer_settime(self._timer, 0, ctypes.byref(left), None)

    def _kick(self) -> None:
        while not self._ended.wait(_KICK_SECONDS):
            self._put_off()
