"""Batches as a function of the step: nothing about the loader needs to be saved.

The order of an epoch is a permutation of (seed, epoch); an image's augmentation is keyed by (seed, epoch, position,
view). Position counts usable training images, so that corrupt files, which are excluded before, change nothing. The
same batches come out for any number of workers and ranks and from any starting step.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from vitlet.augmentation import View
from vitlet.data.batch import Batch
from vitlet.data.detection.following import Objects
from vitlet.data.index import Index
from vitlet.data.samples import SUBSTITUTES, Item, Samples, collate
from vitlet.data.views import IMAGENET, Normalisation
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.host import LOADING, end_with_parent
from vitlet.rng import derive, permutation
from vitlet.text import printable
from vitlet.units import steps_per_epoch

WORKER_TIMEOUT_SECONDS = 120
_GRACE_SECONDS = 3.0
"""From the end of a stream until workers that hang are killed."""


class _Order(Sampler[list[Item]]):
    """A rank's items of each step from a starting step on, for ever."""

    def __init__(self, *, length: int, batch_size: int, seed: int, start: int, rank: int, num_ranks: int) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start
        share = batch_size // num_ranks
        self.slots = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Item]]:
        per_epoch = steps_per_epoch(num_images=self.length, batch_size=self.batch_size)
        step = self.start
        while True:
            epoch = step // per_epoch
            order = permutation(derive(self.seed, "order", epoch), self.length)
            for k in range(step % per_epoch, per_epoch):
                at = k * self.batch_size
                yield [(epoch, int(order[at + slot])) for slot in self.slots]
            step = (epoch + 1) * per_epoch


@dataclass(frozen=True)
class TrainingBatches:
    """All batches of a run; `from_step(s)` is the same stream as `from_step(0)` without its first s batches."""

    index: Index
    ids: np.ndarray
    views: tuple[View, ...]
    batch_size: int
    """Global: over all ranks."""
    seed: int
    workers: int = 0
    rank: int = 0
    num_ranks: int = 1
    objects: Objects | None = None
    """Where the objects on the images are learned."""
    normalisation: Normalisation = IMAGENET
    """What the encoder does to the images; it decides how augmentation fills and erases."""

    def __post_init__(self) -> None:
        """Refuses a batch that no rank layout or data set can fill."""
        if self.batch_size % self.num_ranks:
            below = self.batch_size // self.num_ranks * self.num_ranks
            raise UsageError(
                f"batch size {self.batch_size} does not divide over {self.num_ranks} ranks",
                fix=f"--batch-size {f'{below} or ' if below else ''}{below + self.num_ranks}",
            )
        steps_per_epoch(num_images=len(self.ids), batch_size=self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(num_images=len(self.ids), batch_size=self.batch_size)

    def from_step(self, start: int) -> Generator[Batch]:
        """Batches of steps start, start + 1, … without end.

        Raises:
            WorkerError: when a worker process dies or hangs, naming the files it may have been reading.
        """
        order = _Order(
            length=len(self.ids),
            batch_size=self.batch_size,
            seed=self.seed,
            start=start,
            rank=self.rank,
            num_ranks=self.num_ranks,
        )
        samples = Samples(
            self.index,
            self.ids,
            views=self.views,
            seed=self.seed,
            workers=self.workers,
            objects=self.objects,
            normalisation=self.normalisation,
        )
        slots = torch.arange(order.slots.start, order.slots.stop)
        for columns in _load(samples, order, workers=self.workers):
            yield Batch(slots=slots, **columns)

    def describe(self, batch: Batch) -> list[str]:
        """Names of the files in a batch, printable."""
        return [printable(self.index.path(int(self.ids[p]))) for p in batch.positions.tolist()]


def evaluation_batches(
    index: Index,
    ids: np.ndarray,
    *,
    view: View,
    batch_size: int | None = None,
    workers: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    normalisation: Normalisation = IMAGENET,
) -> Iterator[Batch]:
    """Every image once, in order, the last batch as short as it comes; `rank` of `num_ranks` takes its share.

    `normalisation` shows where `view` leaves a part of the square empty, as `Fit` does.
    """
    batch_size = batch_size or (256 if torch.cuda.is_available() else 64)  # 256 leave a CPU's caches: a fifth slower
    samples = Samples(index, ids, views=(view,), seed=0, workers=workers, normalisation=normalisation)
    mine = range(rank, len(ids), num_ranks)
    order = [[(0, p) for p in mine[i : i + batch_size]] for i in range(0, len(mine), batch_size)]
    for columns in _load(samples, order, workers=workers):
        yield Batch(slots=columns["positions"], **columns)


def _load(samples: Samples, order: Any, *, workers: int) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
        worker_init_fn=_quiet_worker if workers else None,
        generator=torch.Generator().manual_seed(0),  # else DataLoader draws its base seed from the global generator
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        multiprocessing_context=LOADING if workers else None,
    )
    others = set(multiprocessing.active_children())
    stream = iter(loader)
    children = set(multiprocessing.active_children()) - others
    with _guarded(stream, children) as waiting:
        while True:
            try:
                with waiting():
                    columns = next(stream)
            except StopIteration:
                return
            # Torch names a dead worker in a RuntimeError; one that dies while it sends shows as a broken connection.
            except (RuntimeError, OSError, EOFError) as error:
                raise (_worker_error(samples, error) if workers else error) from error
            if "lost" in columns:
                raise DataError(
                    f"{1 + SUBSTITUTES} images in a row cannot be read any more",
                    where=samples.index.name,
                    why=columns["lost"][1].rstrip("."),
                    fix="vitlet check DATA",
                )
            yield columns


def _worker_error(samples: Samples, error: Exception) -> WorkerError:
    names = [printable(samples.index.path(int(samples.ids[int(at)]))) for at in samples.reading if at >= 0]
    return WorkerError(
        "a loader worker died or hung",
        where=f"while reading {' or '.join(names) or 'the first image'}",
        why=(str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        + "; the usual causes are too little memory or a small /dev/shm",
        fix="--workers 0, or fewer workers",
    )


@contextlib.contextmanager
def _guarded(stream: Any, children: set[Any]) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Hear of the death of a child only while waiting for it, and leave no child behind.

    Torch's handler of SIGCHLD raises wherever the main thread happens to be: within a step, or while a checkpoint is
    written. At the end no child is left; see `_end`.
    """
    is_waiting, former = False, signal.getsignal(signal.SIGCHLD)
    raising = getattr(former, "raising", former)  # of torch, also where a probe reads while the training stream is open

    def hold_back(number: int, frame: FrameType | None) -> None:
        if is_waiting and callable(raising):
            raising(number, frame)

    hold_back.__dict__["raising"] = raising

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        nonlocal is_waiting
        is_waiting = True
        try:
            hold_back(signal.SIGCHLD, None)  # for a death since the last time
            yield
        finally:
            is_waiting = False

    handled = bool(children) and threading.current_thread() is threading.main_thread()
    if handled:
        signal.signal(signal.SIGCHLD, hold_back)
    try:
        yield waiting if handled else contextlib.nullcontext
    finally:
        if children:
            _end(stream, children)
        if handled:
            signal.signal(signal.SIGCHLD, former)


def _end(stream: Any, children: set[Any]) -> None:
    """Let the children finish what they hold, and kill those that hang: they do not listen to SIGTERM.

    One that is killed while it asks whether the end has come keeps the lock that torch takes to say so, for ever.
    """

    def kill() -> None:
        for child in children:
            child.kill()

    hanging = threading.Timer(_GRACE_SECONDS, kill)
    hanging.start()
    try:
        stream._shutdown_workers()
    finally:
        hanging.cancel()
        hanging.join()
        kill()
        for child in children:
            child.join()


def _quiet_worker(worker: int) -> None:
    """Only its parent ends a worker: a signal to the whole process group must leave it until the last step is saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    torch.set_num_threads(1)
    os.nice(1)
