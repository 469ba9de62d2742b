"""What a process asks of its host: its cores, the ranks that share them, how others start and end."""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_share: int | None = None

LOADING = "fork" if sys.platform == "linux" else "spawn"
"""How processes that read images are started: by a fork where that is usual, which saves seconds of imports."""


def available_cores() -> int:
    """Return the number of cores that this process may use: those of `take_cores`, or all that the system allows."""
    return _share or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def take_cores(count: int) -> None:
    """Use `count` cores from now on, because other processes of this job use the rest."""
    global _share
    _share = count


def ranks_here() -> int:
    """Return the number of ranks of this run on this host, from torchrun's environment; 1 without it."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if count.isdecimal() else 1


def is_first_rank() -> bool:
    """Whether this is rank 0, which reports for all ranks, from torchrun's environment."""
    return os.environ.get("RANK", "0") == "0"


def has_agent() -> bool:
    """Whether an agent of torchrun started this process, and ends it when another one ends."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def free_shared_memory() -> int | None:
    """Bytes that processes of this host may still hand each other through memory; None where nothing limits them."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def end_with_parent(number: signal.Signals) -> None:
    """On Linux, let the kernel signal this process when its parent ends, since nothing else would stop it then."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def outlive_termination() -> None:
    """Ignore SIGTERM from now on: this process is about to end by itself, and still has to say why."""
    if threading.current_thread() is threading.main_thread():  # no other may change that
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def cause_of_end(exit_code: int | None) -> str:
    """Describe how a process ended, for example `SIGKILL`, given its exit code from multiprocessing."""
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
