"""Relative speed: contenders take turns in one process and are timed in CPU seconds.

So other work on the machine costs all of them the same, and little more than its share of the caches.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vitlet.run import environment


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
        turns = [[_cpu_seconds(call) for call in contenders.values()] for _ in range(repeats + 1)]
    columns = zip(*turns[1:], strict=True)
    return {name: _pace(taken) for name, taken in zip(contenders, columns, strict=True)}


def _pace(taken: tuple[float, ...]) -> Pace:
    middle = statistics.median(taken)
    return Pace(cpu_ms=1000 * middle, spread=(max(taken) - min(taken)) / middle)


def _cpu_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


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
    """What a speed ratio depends on besides the programs; stored with the result."""
    return {
        "repeats": repeats,
        "threads": 1,
        "processor": environment()["processor"],
        "vector_extensions": torch.backends.cpu.get_cpu_capability(),
    }
