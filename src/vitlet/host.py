"""What a process asks of its host: its cores, the ranks that share them, how others start and end."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_share: int | None = None

LOADING = "fork" if sys.platform == "linux" else "spawn"
"""How processes that read images start: forked where that is the custom, at once and not after seconds of imports."""


def available_cores() -> int:
    """Number of cores that this process may use: those of `take_cores`, else all that the system gives it."""
    return _share or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def take_cores(count: int) -> None:
    """Use `count` cores from now on, for other processes of the same job use the others."""
    global _share
    _share = count


def ranks_here() -> int:
    """Number of ranks of this run on this host, from torchrun's environment; 1 without it."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if count.isdecimal() else 1


def is_first_rank() -> bool:
    """Whether this is the process of a run that speaks for all of them, from torchrun's environment."""
    return os.environ.get("RANK", "0") == "0"


def free_shared_memory() -> int | None:
    """Bytes that processes of this host may still hand each other through memory; None where nothing limits them."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent is gone, for nobody would stop it then; on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def cause_of_end(exit_code: int | None) -> str:
    """Say in a few words how a process ended, for example `SIGKILL`, from its code as multiprocessing gives it."""
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
