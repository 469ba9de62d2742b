"""Relative speed: contenders take turns in one process and are timed in CPU seconds.

Other work on the machine then affects all of them alike, and costs little more than its share of the caches.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from vitlet.environment import environment

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pace:
    """Time taken by one contender."""

    cpu_ms: float
    """Median CPU milliseconds per turn."""
    spread: float
    """Largest minus smallest over the median."""


def take_turns(contenders: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, Pace]:
    """Time every contender `repeats` times on one thread, one after the other in each turn.

    A warm-up turn before them is not counted.
    """
    with one_thread():
        turns = [[timed(call)[1] for call in contenders.values()] for _ in range(repeats + 1)]
    columns = zip(*turns[1:], strict=True)
    return {name: _pace(taken) for name, taken in zip(contenders, columns, strict=True)}


def _pace(taken: tuple[float, ...]) -> Pace:
    middle = statistics.median(taken)
    return Pace(cpu_ms=1000 * middle, spread=(max(taken) - min(taken)) / middle)


def timed(call: Callable[..., _T], *args: Any) -> tuple[_T, float]:
    """Return the result of a call, and the CPU seconds that it took."""
    began = time.process_time()
    result = call(*args)
    return result, time.process_time() - began


def seconds_on(device: torch.device, call: Callable[[], object]) -> float:
    """Return the seconds that a call takes on a device.

    On a CPU these are CPU seconds, which other work on the machine does not lengthen; elsewhere wall-clock seconds from
    the end of earlier work on the device to the end of this.
    """
    if device.type == "cpu":
        return timed(call)[1]
    _synchronise(device)
    began = time.perf_counter()
    call()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def conditions(repeats: int) -> dict[str, Any]:
    """Return what a speed ratio depends on besides the programs, to be stored with it."""
    return {
        "repeats": repeats,
        "threads": 1,
        "processor": environment()["processor"],
        "vector_extensions": torch.backends.cpu.get_cpu_capability(),
    }
