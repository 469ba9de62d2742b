"""Packing of a data set into tar shards, after a check."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from vitlet.console import Teller
from vitlet.data.detection.annotations import annotations_of
from vitlet.data.packing import SHARD_BYTES, SHARDS_FILE, Form
from vitlet.data.packing import pack as write_shards
from vitlet.errors import DataError
from vitlet.jobs.images import judged, opened
from vitlet.jobs.options import Options
from vitlet.jobs.spread import by_first_rank
from vitlet.text import plural, printable


@by_first_rank
def pack(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    short_side: int | None = None,
    raw: bool = False,
    shard_mb: int = SHARD_BYTES // 2**20,
    options: Options = Options(),
) -> dict[str, Any]:
    """Write a data set as tar shards that every command and any WebDataset reader can open.

    Args:
        data: Any data that the commands read.
        out: A new folder.
        short_side: Shrink larger images to this short side in pixels; None keeps every file byte for byte.
        raw: Store pixels instead of compressed files.
        shard_mb: Approximate size of a shard in MiB (2^20 bytes).
        options: `max_bad`: the share of unreadable images that may be left out; `workers`: processes that check the
            images, and threads that pack them.

    Returns:
        The content of `shards.json`: exact counts, how the data was packed, and what was left out.

    Raises:
        DataError: if more images are unreadable than accepted, a class has no image, or objects are annotated on them:
            shards hold none.
        UsageError: if `out` is not empty.
        ResourceError: if the disk is full; nothing is left behind.
    """
    teller = Teller(quiet=options.quiet)
    index = opened(data, options, teller)
    index.require_every_class()  # nobody would miss it in the shards
    if annotations_of(index) is not None:
        raise DataError(
            f"{index.name} has annotated objects, which shards cannot hold",
            why="The boxes would be lost",
            fix="train on the folder itself, or pack only its images: give the folder that they are in",
        )
    verdicts = judged(index, options, teller)
    ids = np.flatnonzero(verdicts.good)
    form = Form(short_side=short_side, raw=raw, shard_bytes=shard_mb * 2**20)
    threads = options.num_decoders()
    with teller.progress("packing images", total=len(ids)) as tick:
        facts = write_shards(
            index,
            ids,
            out=Path(out),
            form=form,
            threads=threads,
            left_out=verdicts.bad,
            max_bad=options.max_bad,
            progress=tick,
        )
    bad = f", {plural(facts['num_left_out'], 'unreadable image')} left out" if facts["num_left_out"] else ""
    teller.say(
        f"{plural(facts['num_images'], 'image')} in {plural(len(facts['shardlist']), 'shard')}, "
        f"{facts['num_bytes'] / 1e6:,.1f} MB{bad}: {printable(Path(out) / SHARDS_FILE)}"
    )
    return facts
