"""Work spread over the ranks of torchrun: each makes whole trainings and probes, as the processes of a pool do.

Every rank runs the same job and claims calls from the same list, so none has to travel; results travel as JSON. What a
rank claims it does apart from the others. Small networks gain more from this than from sharing every batch.
"""

import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from vitlet import errors
from vitlet.distributed.world import World
from vitlet.errors import StoppedError, UsageError, VitletError, WorkerError
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0
_numbers = itertools.count()

_P = ParamSpec("_P")
_R = TypeVar("_R")


def among_ranks(job: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a job, which takes `options`, on all ranks of torchrun, in one world from beginning to end."""

    @functools.wraps(job)
    def run(*arguments: _P.args, **named: _P.kwargs) -> _R:
        options = named.get("options", Options())
        assert isinstance(options, Options)
        with World.joined(pick_device(options)):
            return job(*arguments, **named)

    return run


def by_first_rank(job: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a job on rank 0 of torchrun alone; the others wait, and return or raise what it does.

    The job returns a path, or a value that travels as JSON.
    """

    @functools.wraps(job)
    def run(*arguments: _P.args, **named: _P.kwargs) -> _R:
        with World.joined() as world:
            if world.size == 1:
                return job(*arguments, **named)
            result: Any = None
            failure = None
            if world.is_first:
                try:
                    with world.apart():
                        result = job(*arguments, **named)
                except StoppedError:
                    raise
                except VitletError as error:
                    failure = error
            is_path = isinstance(result, Path)
            told = [str(result) if is_path else result, is_path, failure and _as_json(failure)]
            value, is_path, failed = world.broadcast_json(told)
        if failed is not None:
            raise _from_json(failed)
        return cast(_R, Path(value) if is_path else value)

    return run


def require_sharing(batch_size: int) -> None:
    """Refuse ranks that cannot share a batch, in a job that has no option for its size.

    Raises:
        UsageError: naming the next numbers of ranks that can.
    """
    size = World.here().size
    if batch_size % size:
        fitting = [str(fewer) for fewer in range(1, size) if not batch_size % fewer]
        raise UsageError(
            f"batches of {batch_size} images do not divide over {size} ranks",
            why="This command decides about its batches by itself",
            fix=f"torchrun --nproc-per-node {' or '.join(fitting[-2:])}",
        )


def spread(
    calls: Sequence[tuple[Any, ...]], *, watch: Callable[[int], object], after: Mapping[int, Collection[int]]
) -> list[Any]:
    """Return the results of calls, in their order, on every rank; see `results_side_by_side`.

    After a failure no more are claimed, those that run finish, and every rank raises.

    Raises:
        VitletError: of a call that failed, the same on every rank.
    """
    world, queue = World.here(), f"{next(_numbers)}"  # the same on all ranks, as they run the same job
    results: dict[int, Any] = {}
    failure: VitletError | None = None
    looking = _watched(watch, lambda: world.count(f"{queue}/done", 0)) if world.is_first else nullcontext()
    with looking:
        try:
            for number in _claimed(world, queue, len(calls), after):
                work, *arguments = calls[number]
                with world.apart():
                    results[number] = work(*arguments)
                for name in ("done", f"done/{number}"):
                    world.count(f"{queue}/{name}")
        except StoppedError:
            raise
        except VitletError as error:
            world.count(f"{queue}/failed")
            failure = error
        told = [json.loads(text) for text in world.gather(json.dumps([results, failure and _as_json(failure)]))]
    for _, failed in told:
        if failed is not None:
            raise _from_json(failed)
    found = {int(number): result for some, _ in told for number, result in some.items()}
    watch(len(found))
    return [found[number] for number in range(len(calls))]


def _as_json(error: VitletError) -> list[str]:
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return [kind.__name__, error.what, error.where, error.why, error.fix]


def _from_json(told: list[str]) -> VitletError:
    """Rebuild the error, of its kind: a job that goes on after it does so on every rank."""
    name, what, where, why, fix = told
    return getattr(errors, name)(what, where=where, why=why, fix=fix)


def _claimed(world: World, queue: str, count: int, after: Mapping[int, Collection[int]]) -> Iterator[int]:
    """Yield the calls that this rank is the first to claim, each when those it needs are done."""
    left = list(range(count))
    while left and not world.count(f"{queue}/failed", 0):
        ready = [n for n in left if all(world.count(f"{queue}/done/{needed}", 0) for needed in after.get(n, ()))]
        if not ready:
            time.sleep(_POLL_SECONDS)
            continue
        left.remove(ready[0])
        if world.claim(f"{queue}/{ready[0]}"):
            yield ready[0]


@contextmanager
def _watched(watch: Callable[[int], object], count: Callable[[], int]) -> Iterator[None]:
    """Tell `watch` the count now and then from another thread, for this one works."""
    over = threading.Event()

    def look() -> None:
        with suppress(WorkerError):  # the block will meet it too
            while not over.wait(_LOOK_SECONDS):
                watch(count())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
