"""Batches as a function of the step: nothing about the loader needs to be saved.

The order of an epoch is a permutation determined by (seed, epoch); an image's augmentation by (seed, epoch, position,
view). Positions count usable training images, so corrupt files, which are excluded beforehand, change nothing. The
batches are the same for any number of workers and ranks and from any starting step.
"""

import contextlib
import itertools
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
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.host import LOADING, end_with_parent, free_shared_memory, ranks_here
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.rng import derive, permutation
from vitlet.text import printable
from vitlet.units import steps_per_epoch

WORKER_TIMEOUT_SECONDS = 120
"""A worker that takes longer for one image hangs; a batch of 4,096 photographs may take minutes."""
_TIMED_OUT = "DataLoader timed out"
"""How torch begins to say so."""
_GRACE_SECONDS = 3.0
"""Time between the end of a stream and the killing of workers that hang."""


class _Order(Sampler[list[Item]]):
    """A rank's items for each step, from a starting step on, without end."""

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
    """All batches of a run; `from_step(s)` gives the batches of `from_step(0)` without the first s."""

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
    """The objects on the images, if they are learned."""
    normalisation: Normalisation = IMAGENET
    """The encoder's normalisation, which determines how augmentation fills and erases."""

    def __post_init__(self) -> None:
        """Refuse a batch size that the ranks do not divide or the data set does not fill."""
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
        """Yield the batches of steps start, start + 1, … without end.

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
        for columns in _load(samples, order, size=len(slots), workers=self.workers):
            yield Batch(slots=slots, **columns)

    def describe(self, batch: Batch) -> list[str]:
        """Return the names of the files in a batch, printable."""
        return [printable(self.index.path(int(self.ids[p]))) for p in batch.positions.tolist()]


def evaluation_batches(
    index: Index,
    ids: np.ndarray,
    *,
    view: View,
    normalisation: Normalisation,
    batch_size: int | None = None,
    workers: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """Return batches of every image once, in order; the last may be shorter. Each of `num_ranks` gets its share.

    `normalisation` is the encoder's; it matters only if `view` leaves a part of the square empty, as `Fit` does, and
    has no default, so that nobody pads with another's mean.
    """
    batch_size = batch_size or (256 if torch.cuda.is_available() else 64)  # 256 exceed a CPU's caches: a fifth slower
    samples = Samples(index, ids, views=(view,), seed=0, workers=workers, normalisation=normalisation)
    mine = range(rank, len(ids), num_ranks)
    order = [[(0, p) for p in mine[i : i + batch_size]] for i in range(0, len(mine), batch_size)]
    for columns in _load(samples, order, size=batch_size, workers=workers):
        yield Batch(slots=columns["positions"], **columns)


def _load(samples: Samples, order: Any, *, size: int, workers: int) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        prefetch_factor=_batches_ahead(samples, size=size, workers=workers) if workers else None,
        collate_fn=collate,
        timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
        worker_init_fn=_quiet_worker if workers else None,
        generator=torch.Generator().manual_seed(0),  # otherwise the base seed comes from the global one
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        multiprocessing_context=LOADING if workers else None,
    )
    others = set(multiprocessing.active_children())
    stream = iter(loader)
    children = set(multiprocessing.active_children()) - others
    with _guarded(stream, children) as waiting:
        for number in itertools.count():
            worker = number % max(1, workers)  # torch gives them the batches in turn
            try:
                with waiting():
                    columns = _next(stream, samples, worker=worker)
            except StopIteration:
                return
            # Torch reports a dead worker by a RuntimeError, but one that dies while sending by a broken connection.
            except (RuntimeError, OSError, EOFError) as error:
                raise (_worker_error(samples, error, worker=worker) if workers else error) from error
            if "lost" in columns:
                raise DataError(
                    f"{1 + SUBSTITUTES} images in a row can no longer be read",
                    where=samples.index.name,
                    why=columns["lost"][1].rstrip("."),
                    fix="vitlet check DATA",
                )
            yield columns


def _batches_ahead(samples: Samples, *, size: int, workers: int) -> int:
    """How many batches each worker makes ahead: two, where those of all take no more than half of what is free."""
    num_bytes = size * sum(3 * view.size**2 for view in samples.views)
    free = free_shared_memory()
    return 2 if free is None or 2 * workers * num_bytes * ranks_here() <= free // 2 else 1


def _next(stream: Iterator[dict[str, Any]], samples: Samples, *, worker: int) -> dict[str, Any]:
    """The next batch. The worker that makes it is waited for as long as it goes from image to image."""
    while True:
        before = int(samples.begun[worker])
        try:
            return next(stream)
        except RuntimeError as error:
            if not str(error).startswith(_TIMED_OUT) or int(samples.begun[worker]) == before:
                raise


def _worker_error(samples: Samples, error: Exception, *, worker: int) -> WorkerError:
    hangs = str(error).startswith(_TIMED_OUT)  # else any of them may have died
    reading = samples.reading[worker : worker + 1] if hangs else samples.reading
    names = [printable(samples.index.path(int(samples.ids[int(at)]))) for at in reading if at >= 0]
    return WorkerError(
        f"a loader worker {'hangs' if hangs else 'died'}",
        where=f"while reading {' or '.join(names) or 'the first image'}",
        why=(str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        + "; the usual causes are too little memory or a small /dev/shm",
        fix="--workers 0, or fewer workers",
    )


@contextlib.contextmanager
def _guarded(stream: Any, children: set[Any]) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Handle SIGCHLD only while waiting for a batch, and leave no child behind; see `_end`.

    Torch's handler of SIGCHLD raises wherever the main thread happens to be: within a step, or while a checkpoint is
    written. Yields a context manager to wait in.
    """
    is_waiting, former = False, signal.getsignal(signal.SIGCHLD)
    raising = getattr(former, "raising", former)  # torch's own, also if a probe reads while training does

    def hold_back(number: int, frame: FrameType | None) -> None:
        if is_waiting and callable(raising):
            raising(number, frame)

    hold_back.__dict__["raising"] = raising

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        nonlocal is_waiting
        is_waiting = True
        try:
            hold_back(signal.SIGCHLD, None)  # a child may have died since the last batch
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
    """Let the children finish, and kill those that hang, since they ignore SIGTERM.

    One that is killed while it asks whether the end has come keeps the lock that is needed to say so, for ever.
    """

    def kill() -> None:
        for child in children:
            child.kill()

    ended = stream._workers_done_event  # it stays until they are gone: one that just starts looks for it
    saying = threading.Thread(target=ended.set, daemon=True)
    saying.start()
    saying.join(_GRACE_SECONDS)
    if saying.is_alive():
        kill()
    stream._workers_done_event = threading.Event()  # torch says it once more, where nobody can keep a lock
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
    """Ignore signals to the whole process group: the parent needs its workers until the last step is saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    torch.set_num_threads(1)
    os.nice(1)
