"""Batches as a function of the step: nothing about the loader needs to be saved.

The order of an epoch is a permutation of (seed, epoch); an image's augmentation is keyed by (seed, epoch, position,
view). Position counts usable training images, so that corrupt files, which are excluded before, change nothing. The
same batches come out for any number of workers and ranks and from any starting step.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vitlet.data.batch import Batch
from vitlet.data.decode import BadImage, decode
from vitlet.data.index import Index
from vitlet.data.views import apply_view
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.recipe import View
from vitlet.rng import derive, permutation
from vitlet.text import printable
from vitlet.units import steps_per_epoch

WORKER_TIMEOUT_SECONDS = 120
_SUBSTITUTES = 8
_DECODED_CACHE_BYTES = 512 * 2**20

Item = tuple[int, int]
"""(epoch, position): all that a sample depends on beside the seed."""


class Samples(Dataset):
    """Decodes and augments one image on request."""

    def __init__(self, index: Index, ids: np.ndarray, *, views: Sequence[View], seed: int) -> None:
        """`ids` are the rows of `index` that may be used; their order gives the positions."""
        self.index, self.ids, self.views, self.seed = index, ids, tuple(views), seed
        self._decoded: dict[int, Tensor] = {}
        self._room = _DECODED_CACHE_BYTES

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: Item) -> dict[str, Any]:
        epoch, position = item
        image, replaced = self._image(epoch, position)
        views = tuple(
            apply_view(image, view, key=derive(self.seed, "view", epoch, position, v))
            for v, view in enumerate(self.views)
        )
        label = int(self.index.labels[self.ids[position]])
        return {"views": views, "label": label, "position": position, "replaced": replaced}

    def _image(self, epoch: int, position: int) -> tuple[Tensor, tuple[int, str] | None]:
        """The image, or a deterministic substitute for one that was good when the data was checked and is not now."""
        reason: tuple[int, str] | None = None
        for attempt in range(_SUBSTITUTES):
            chosen = position if attempt == 0 else derive(self.seed, "substitute", epoch, position, attempt) % len(self)
            try:
                return self._decode(chosen), reason
            except BadImage as error:
                reason = reason or (position, str(error))
        raise DataError(
            f"{_SUBSTITUTES} images in a row cannot be read any more",
            where=self.index.name,
            why=reason[1] if reason else "",
            fix="vitlet check DATA",
        )

    def _decode(self, position: int) -> Tensor:
        # Small sets are decoded once and kept: at 32 pixels decoding costs as much as the training step.
        if position in self._decoded:
            return self._decoded[position]
        row = int(self.ids[position])
        image = decode(self.index.read(row), path=self.index.path(row))
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

    def from_step(self, start: int) -> Iterator[Batch]:
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
        samples = Samples(self.index, self.ids, views=self.views, seed=self.seed)
        slots = torch.arange(order.slots.start, order.slots.stop)
        expected = iter(order)
        for columns in _load(samples, order, workers=self.workers, names=lambda: self._names(next(expected))):
            yield Batch(slots=slots, **columns)

    def _names(self, items: list[Item]) -> list[str]:
        return [self.index.path(int(self.ids[position])) for _, position in items]

    def describe(self, batch: Batch) -> list[str]:
        """Names of the files in a batch, printable."""
        return [printable(self.index.path(int(self.ids[p]))) for p in batch.positions.tolist()]


def evaluation_batches(
    index: Index,
    ids: np.ndarray,
    *,
    view: View,
    batch_size: int = 256,
    workers: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """Every image exactly once, in order, the last batch as short as it comes; `rank` of `num_ranks` takes its share."""
    samples = Samples(index, ids, views=(view,), seed=0)
    mine = range(rank, len(ids), num_ranks)
    cut = [[(0, p) for p in mine[i : i + batch_size]] for i in range(0, len(mine), batch_size)]
    order = iter(cut)
    names = lambda: [index.path(int(ids[p])) for _, p in next(order)]  # noqa: E731
    for columns in _load(samples, cut, workers=workers, names=names):
        yield Batch(slots=columns["positions"], **columns)


def _load(samples: Samples, order: Any, *, workers: int, names: Any) -> Iterator[dict[str, Any]]:
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
    stream = iter(loader)
    while True:
        try:
            columns = next(stream)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) and "DataLoader timed out" not in str(error):
                raise
            reading = ", ".join(printable(n) for n in names()[:8])
            raise WorkerError(
                "a loader worker died or hung",
                where=f"while reading some of: {reading}",
                why=str(error).splitlines()[0] + "; the usual causes are too little memory or a small /dev/shm",
                fix="--workers 0, or fewer workers",
            ) from error
        names()
        yield columns


def _quiet_worker(worker: int) -> None:
    """A signal to the whole process group must not kill the workers before the last step is saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.nice(1)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples; the slots are added by the stream that knows them."""
    return {
        "views": tuple(torch.stack(view) for view in zip(*(row["views"] for row in rows), strict=True)),
        "labels": torch.tensor([row["label"] for row in rows]),
        "positions": torch.tensor([row["position"] for row in rows]),
        "replaced": tuple(row["replaced"] for row in rows if row["replaced"]),
    }
