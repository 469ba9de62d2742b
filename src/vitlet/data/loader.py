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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vitlet.augmentation import View
from vitlet.data.batch import Batch
from vitlet.data.decode import BadImage, decode
from vitlet.data.detection.following import Objects
from vitlet.data.index import Index
from vitlet.data.views import IMAGENET, Normalisation, apply_view
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.host import end_with_parent, ranks_here
from vitlet.rng import derive, permutation
from vitlet.text import printable
from vitlet.units import steps_per_epoch

WORKER_TIMEOUT_SECONDS = 120
_SUBSTITUTES = 8
_DECODED_CACHE_BYTES = 512 * 2**20
"""Of one host: its ranks and their workers share it, for each keeps what it has decoded itself."""

Item = tuple[int, int]
"""(epoch, position): all that a sample depends on beside the seed."""


class Samples(Dataset):
    """Decodes and augments one image on request."""

    def __init__(
        self,
        index: Index,
        ids: np.ndarray,
        *,
        views: Sequence[View],
        seed: int,
        workers: int = 0,
        objects: Objects | None = None,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        """`ids` are the rows of `index` that may be used; their order gives the positions. With `objects` each sample
        has those that its first view shows. `normalisation` is what the encoder does to the batch.
        """
        self.index, self.ids, self.views, self.seed, self.objects = index, ids, tuple(views), seed, objects
        self.normalisation = normalisation
        self.reading = torch.full((max(1, workers),), -1).share_memory_()
        """Which position each worker is at; it outlives them."""
        self._decoded: dict[int, Tensor] = {}
        self._room = _DECODED_CACHE_BYTES // (ranks_here() * max(1, workers))
        self._fetched: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, items: list[Item]) -> list[dict[str, Any]]:
        """Several samples; from an object store their files are fetched together first."""
        self._fetched = self.index.read_ahead([int(self.ids[position]) for _, position in items])
        return [self[item] for item in items]

    def __getitem__(self, item: Item) -> dict[str, Any]:
        epoch, position = item
        worker = get_worker_info()
        self.reading[worker.id if worker else 0] = position
        image, chosen, replaced = self._image(epoch, position)
        if image is None:
            return {"lost": replaced}
        keys = [derive(self.seed, "view", epoch, position, v) for v in range(len(self.views))]
        row = int(self.ids[chosen])  # a substitute brings its own label, and not that of the image it stands in for
        label, shape = int(self.index.labels[row]), (image.shape[1], image.shape[2])
        sample = {"label": label, "position": position, "replaced": replaced, "shape": shape}
        if self.objects is not None:
            pixels, targets = self.objects.look(
                image, row, view=self.views[0], key=keys[0], normalisation=self.normalisation
            )
            return sample | {"views": (pixels,), "targets": targets}
        views = (
            apply_view(image, view, key=key, normalisation=self.normalisation)
            for view, key in zip(self.views, keys, strict=True)
        )
        return sample | {"views": tuple(views)}

    def _image(self, epoch: int, position: int) -> tuple[Tensor | None, int, tuple[int, str] | None]:
        """The image and its position, or those of a deterministic substitute for one that was good when the data was
        checked and is not now.

        None where the substitutes cannot be read either.
        """
        reason: tuple[int, str] | None = None
        for attempt in range(1 + _SUBSTITUTES):
            chosen = position if attempt == 0 else derive(self.seed, "substitute", epoch, position, attempt) % len(self)
            try:
                return self._decode(chosen), chosen, reason
            except BadImage as error:
                reason = reason or (position, str(error))
        return None, position, reason

    def _decode(self, position: int) -> Tensor:
        # Small sets are decoded once and kept, as far as there is room: at 32 pixels decoding costs as much as the
        # training step.
        if position in self._decoded:
            return self._decoded[position]
        row = int(self.ids[position])
        content = self._fetched.pop(row, None)
        image = decode(self.index.read(row) if content is None else content, path=self.index.path(row))
        if self.objects is not None:
            self.objects.require(row, image, path=self.index.path(row))
        if image.nbytes * len(self) <= _DECODED_CACHE_BYTES and image.nbytes <= self._room:
            self._decoded[position] = image
            self._room -= image.nbytes
        return image


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
            near = [b for b in range(self.num_ranks, 4 * self.batch_size, self.num_ranks) if b <= 2 * self.batch_size]
            near.sort(key=lambda b: abs(b - self.batch_size))
            raise UsageError(
                f"batch size {self.batch_size} does not divide over {self.num_ranks} ranks",
                fix=f"--batch-size {' or '.join(map(str, sorted(near[:2])))}",
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
    )
    others = set(multiprocessing.active_children())
    stream = iter(loader)
    children = set(multiprocessing.active_children()) - others
    with _guarded(children) as waiting:
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
                    f"{1 + _SUBSTITUTES} images in a row cannot be read any more",
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
def _guarded(children: set[Any]) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Hear of the death of a child only while waiting for it, and leave no child behind.

    Torch's handler of SIGCHLD raises wherever the main thread happens to be: within a step, or while a checkpoint is
    written. Children are killed at the end: they do not listen to SIGTERM, and one that hangs would hold up the exit.
    """
    is_waiting, raising = False, signal.getsignal(signal.SIGCHLD)

    def hold_back(number: int, frame: FrameType | None) -> None:
        if is_waiting and callable(raising):
            raising(number, frame)

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
        for child in children:
            child.kill()
            child.join()
        if handled:
            signal.signal(signal.SIGCHLD, raising)


def _quiet_worker(worker: int) -> None:
    """Only its parent ends a worker: a signal to the whole process group must leave it until the last step is saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    torch.set_num_threads(1)
    os.nice(1)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples; the slots are added by the stream that knows them.

    An image that is lost for good takes its batch with it, as a value: an exception would arrive as a page of text.
    """
    for row in rows:
        if "lost" in row:
            return row
    return {
        "views": tuple(_stack(view) for view in zip(*(row["views"] for row in rows), strict=True)),
        "labels": torch.tensor([row["label"] for row in rows]),
        "positions": torch.tensor([row["position"] for row in rows]),
        "replaced": tuple(row["replaced"] for row in rows if row["replaced"]),
        "targets": tuple(row["targets"] for row in rows if "targets" in row),
        "shapes": tuple(row["shape"] for row in rows),
    }


def _stack(views: Sequence[Tensor]) -> Tensor:
    """B × 3 × H × W in channels-last memory, as decoding and resizing leave the images: five times as fast to stack."""
    return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)
