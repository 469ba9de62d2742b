"""The cost of a training run, summed over its ranks and over all processes of an interrupted run."""

import resource
import time
from collections.abc import Mapping
from typing import final

from vitlet.distributed.world import World


@final
class Clock:
    """Measures wall-clock and CPU time from its creation."""

    def __init__(self) -> None:
        """Start at zero; set `before` to add earlier processes."""
        self.before: Mapping[str, float] = {}
        """Cost of earlier processes of this run, up to the checkpoint from which this one continues."""
        self._wall, self._cpu, self._others = time.monotonic(), _cpu_seconds(), 0.0

    def meet(self, world: World) -> None:
        """Record the other ranks' CPU time; every rank has to call it."""
        mine = _cpu_seconds() - self._cpu
        self._others = world.sum(mine) - mine

    def spent(self) -> dict[str, float]:
        """`wall_seconds`, and `cpu_seconds` of all ranks (others as of the last `meet`) and ended loader workers."""
        cpu = _cpu_seconds() - self._cpu + self._others
        return {
            "wall_seconds": self.before.get("wall_seconds", 0.0) + time.monotonic() - self._wall,
            "cpu_seconds": self.before.get("cpu_seconds", 0.0) + cpu,
        }


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
