"""The images of a job: opened, checked once, and divided into those to learn from and those to evaluate on.

Among ranks, one of each host opens and checks them for the others, into the host's cache.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch

from vitlet.console import Teller, Ticker
from vitlet.data.check import check
from vitlet.data.classes import require_classes
from vitlet.data.index import Index, open_index
from vitlet.data.subsets import divide
from vitlet.data.verdicts import Verdicts
from vitlet.distributed.world import World
from vitlet.evaluation import labels
from vitlet.jobs.options import Options
from vitlet.text import plural


def opened(data: str | os.PathLike[str], options: Options, teller: Teller) -> Index:
    """Open the images; with progress if they are copied into the cache.

    Raises:
        DataError: as `open_index`.
    """
    with World.here().first_per_host(), contextlib.ExitStack() as shown:
        tick: Ticker | None = None

        def copied(megabytes: int, total: int) -> None:
            nonlocal tick
            tick = tick or shown.enter_context(teller.progress("copying images into the cache, MB", total=total))
            tick(megabytes)

        return open_index(data, follow_outside=options.follow_outside, progress=copied)


def judged(index: Index, options: Options, teller: Teller, *, training: bool = True) -> Verdicts:
    """Check every image once, with progress; an earlier check is reused.

    `training` says whether there must be images to train on.

    Raises:
        DataError: if more images are bad than the options accept, or the ranks see different ones.
    """
    world = World.here()
    with world.first_per_host():
        with teller.progress("checking images", total=len(index)) as tick:
            verdicts = check(index, workers=options.num_decoders(), progress=lambda done, _: tick(done))
        verdicts.require(max_bad=options.max_bad, training=training)
    world.require_same(described(index, verdicts), of="images")
    for note in index.notes if teller.run is None else ():  # a run says them once nothing more can be refused
        teller.say(f"note: {note}")
    return verdicts


def described(index: Index, verdicts: Verdicts) -> str:
    """Return a description of the images on which ranks must agree before they work together."""
    good = hashlib.sha256(np.packbits(verdicts.good).tobytes()).hexdigest()[:8]
    return f"{plural(int(verdicts.good.sum()), 'usable image')} of {len(index):,}, {index.fingerprint}/{good}"


@dataclass(frozen=True)
class Labelled:
    """Images that can be learned and evaluated."""

    index: Index
    verdicts: Verdicts
    train: np.ndarray
    """Rows to learn from."""
    test: np.ndarray
    """Rows to evaluate on."""
    split: str
    """Name of the split of the test images."""

    @classmethod
    def open(cls, data: str | os.PathLike[str], options: Options, teller: Teller) -> "Labelled":
        """Open, check and divide labelled images.

        Raises:
            DataError: as `require_classes`, `judged` and `require_labels`.
        """
        index = opened(data, options, teller)
        require_classes(index)
        verdicts = judged(index, options, teller)
        images = cls(index, verdicts, *divide(index, verdicts.good))
        require_labels(index, verdicts, images.train, images.test, images.split)
        return images


def require_labels(index: Index, verdicts: Verdicts, train: np.ndarray, test: np.ndarray, split: str) -> None:
    """Refuse training and evaluation rows that lack the necessary labels.

    Raises:
        DataError: as `labels.require`.
    """
    learned = train if len(train) else index.rows("train", verdicts.good)  # all of it without a label, or none
    of = [torch.from_numpy(np.asarray(index.labels[rows], dtype=np.int64)) for rows in (learned, test)]
    labels.require(*of, classes=index.classes, split=split, where=index.name)
