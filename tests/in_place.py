"""In the place of a pool of processes, which pay seconds to start: a job runs where it is submitted."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from vitlet.errors import VitletError


@contextmanager
def in_place(*_: Any, **__: Any) -> Iterator[Executor]:
    """For `vitlet.jobs.pool.processes`."""
    yield _Here()


class _Here(Executor):
    def submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except VitletError as error:  # told to whoever asks for the result, as by a pool
            future.set_exception(error)
        return future
