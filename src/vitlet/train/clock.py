"""What a training costs, over all its ranks and over the processes that it was interrupted in."""

import resource
import time
from collections.abc import Mapping
from typing import final

from vitlet.train.ranks import World


@final
class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        """Nothing was spent before, until `before` says otherwise."""
        self.before: Mapping[str, float] = {}
        """What earlier processes of the same training spent, up to the checkpoint that this one goes on from."""
        self._wall, self._cpu, self._others = time.monotonic(), _cpu_seconds(), 0.0

    def meet(self, world: World) -> None:
        """Note what the other ranks have spent; every rank has to call it."""
        mine = _cpu_seconds() - self._cpu
        self._others = world.total(mine) - mine

    def spent(self) -> dict[str, float]:
        """`wall_seconds`, and `cpu_seconds` of all ranks (the others' at the last meeting) and ended loader workers."""
        cpu = _cpu_seconds() - self._cpu + self._others
        return {
            "wall_seconds": self.before.get("wall_seconds", 0.0) + time.monotonic() - self._wall,
            "cpu_seconds": self.before.get("cpu_seconds", 0.0) + cpu,
        }


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
