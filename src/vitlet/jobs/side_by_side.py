"""Trainings and probes side by side, each in a process of its own with its share of the cores.

A small network gains little from a second thread; two single-threaded runs use two cores fully. Under torchrun the
ranks are those processes.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vitlet.console import Teller
from vitlet.distributed.world import World
from vitlet.host import available_cores
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.jobs.pool import Pool, processes
from vitlet.jobs.spread import spread
from vitlet.jobs.training import pretrain, resolved
from vitlet.run import Run

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Training:
    """A run to be made in `steps` steps by `train(*arguments)`; both travel to another process."""

    run: Run
    steps: int
    train: Callable[..., object]
    arguments: tuple[Any, ...]
    after: Run | None = None
    """A run that must be finished before, if it is among those to be made."""


def train_side_by_side(trainings: Sequence[Training], *, title: str, options: Options, teller: Teller) -> None:
    """Make the runs that are not finished, as many at a time as there are cores; on a GPU one after the other.

    After a failure no more are started; those running finish and are reused next time.

    Args:
        trainings: The runs; one that is listed twice is made once.
        title: Words for the progress bar.
        options: Decides the device.
        teller: Shows the progress.

    Raises:
        VitletError: that of the first run that failed.
        WorkerError: if a process ended without a result.
    """
    every = list({training.run: training for training in trainings}.values())
    finished = World.here().broadcast_json([training.run.is_finished for training in every])
    left = [training for training, is_finished in zip(every, finished, strict=True) if not is_finished]
    if not left:
        return
    calls = [(training.train, *training.arguments) for training in left]
    places = {training.run: number for number, training in enumerate(left)}
    after = {places[training.run]: [places[training.after]] for training in left if training.after in places}
    total = sum(training.steps for training in every)
    with teller.progress(title, total=total) as tick:

        def watch(_: int) -> None:
            tick(sum(_steps_done(training.run) for training in every))

        results_side_by_side(calls, options=options, watch=watch, after=after)


def num_places(options: Options) -> int:
    """Return how many processes compute side by side: one for each core, or one where a GPU computes."""
    return available_cores() if pick_device(options).type == "cpu" else 1


def results_side_by_side(
    calls: Sequence[tuple[Any, ...]],
    *,
    options: Options,
    watch: Callable[[int], object],
    after: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> list[Any]:
    """Return the results of calls, in their order, each made in another process or by one of the ranks.

    After a failure no more are begun, and those that run finish.

    Args:
        calls: Functions with their arguments, which travel to another process.
        options: Decide how many at a time; see `num_places`.
        watch: Is told twice a second how many calls are done.
        after: For the numbers of some calls those of calls which must be done before.

    Raises:
        WorkerError: if a process ended without a result.
    """
    if World.here().size > 1:
        return spread(calls, watch=watch, after=after)
    workers = min(num_places(options), len(calls))
    left = dict(enumerate(calls))
    results: dict[int, Any] = {}
    with processes(workers, threads=available_cores() // max(1, workers)) as pool:
        while len(results) < len(calls):
            ready = [number for number in left if results.keys() >= set(after.get(number, ()))]
            for number in ready[: pool.free]:
                pool.begin(number, *left.pop(number))
            results |= pool.ended(_POLL_SECONDS)
            watch(len(results))
    return [results[number] for number in range(len(calls))]


def _steps_done(run: Run) -> int:
    rows = run.metrics()
    return rows[-1]["step"] if rows else 0


@contextmanager
def meanwhile(trainings: Sequence[Training], *, options: Options) -> Iterator[None]:
    """Make runs on one core while the block trains on the others; with one core, on a GPU or among ranks, make none.

    What is not begun when the block ends is left for `train_side_by_side`, and so is the error of a run that failed.
    """
    left = [training for training in trainings if not training.run.is_finished]
    if not left or num_places(options) < 2 or World.here().size > 1:
        yield
        return
    import torch

    before, over, failed = torch.get_num_threads(), threading.Event(), threading.Event()
    with processes(1, threads=1) as pool:
        beside = threading.Thread(target=_one_by_one, args=(pool, left, over, failed))
        torch.set_num_threads(max(1, min(before, available_cores() - 1)))
        beside.start()
        try:
            yield
        except BaseException:
            failed.set()
            raise
        finally:
            over.set()
            beside.join()
            torch.set_num_threads(before)


def _one_by_one(pool: Pool, trainings: Sequence[Training], over: threading.Event, failed: threading.Event) -> None:
    """Begin no more when it is over, and stop what is under way if it has failed."""
    for training in trainings:
        if over.is_set():
            return
        with contextlib.suppress(Exception):  # `train_side_by_side` will meet it again
            pool.begin(training.run, training.train, *training.arguments)
            while not pool.ended(_POLL_SECONDS):
                if failed.is_set():
                    pool.stop()


def pretrain_side_by_side(
    recipes: Mapping[Path, tuple[str, Mapping[str, Any]]],
    *,
    data: Path,
    num_images: int,
    options: Options,
    teller: Teller,
) -> None:
    """Pre-train on `data` in every folder of `recipes`, each with a recipe's name and changes to it.

    Args:
        recipes: What to train, and where; finished runs are reused. One that has another of them as its teacher waits
            for it.
        data: The images.
        num_images: Training images, for the length of the progress bar.
        options: As for `pretrain`.
        teller: Shows the progress.

    Raises:
        VitletError: as `pretrain`; also for a finished run of other values in one of the folders.
    """
    trainings, teachers = [], {os.path.abspath(place): Run(place) for place in recipes}
    for place, (name, changes) in recipes.items():
        steps = resolved(name, {"set": changes}).budget.steps(num_images)
        teacher = teachers.get(changes.get("objective.teacher", ""))
        trainings.append(Training(Run(place), steps, _pretrain_one, (name, data, place, options, changes), teacher))
    for training in trainings:
        if training.run.is_finished:
            training.train(*training.arguments)  # returns at once, or says which values differ
    train_side_by_side(trainings, title="pre-training", options=options, teller=teller)


def _pretrain_one(name: str, data: Path, out: Path, options: Options, changes: Mapping[str, Any]) -> None:
    pretrain(name, data=data, out=out, options=options.changed(quiet=True), set=changes)
