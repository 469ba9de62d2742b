"""In the place of a pool of processes, which pay seconds to start: a call is made where it begins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vitlet.errors import VitletError
from vitlet.jobs.pool import Pool


@contextmanager
def in_place(count: int, *, threads: int) -> Iterator["_InPlace"]:
    """For `vitlet.jobs.pool.processes`."""
    yield _InPlace(count, threads=threads)


class _InPlace(Pool):  # type: ignore[misc]
    def __init__(self, count: int, *, threads: int) -> None:
        super().__init__(count, threads=threads)
        self._answers: dict[Any, tuple[bool, Any]] = {}

    @property
    def free(self) -> int:
        return self._count - len(self._answers)

    @property
    def running(self) -> frozenset[Any]:
        return frozenset(self._answers)

    def begin(self, name: Any, work: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        try:
            self._answers[name] = False, work(*arguments, **named)
        except VitletError as error:  # told when the call has ended, as by a pool
            self._answers[name] = True, error

    def ended(self, seconds: float) -> dict[Any, Any]:
        answers, self._answers = self._answers, {}
        for failed, answer in answers.values():
            if failed:
                raise answer
        return {name: answer for name, (_, answer) in answers.items()}
