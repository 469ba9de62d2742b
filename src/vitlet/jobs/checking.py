"""The check of a data set: what is unreadable, odd, double or leaking, and how fast it loads."""

import os
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from vitlet.augmentation import Resample, View
from vitlet.console import Teller
from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.index import Index
from vitlet.data.loader import TrainingBatches
from vitlet.data.splits import SPLITS
from vitlet.data.verdicts import Verdicts
from vitlet.disk import write_json
from vitlet.distributed.world import World
from vitlet.jobs.images import judged, opened
from vitlet.jobs.options import Options
from vitlet.jobs.spread import among_ranks
from vitlet.text import plural, printable

_COPIES = {
    "duplicates": "same bytes twice",
    "near_duplicates": "look alike",
    "leaks": "held-out images also in train",
    "near_leaks": "held-out images like one in train",
}
_SPEED_IMAGES = 64
_FIRST = 3


@among_ranks
def check(
    data: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, options: Options = Options()
) -> Verdicts:
    """Decode every image once and report problems: unreadable, odd, tiny, duplicate, leaking, unbalanced, slow.

    Of several ranks one of each host checks the images, into the host's cache, and the first reports.

    Args:
        data: Folder, manifest or Parquet.
        out: A folder for `data_check.json`, `bad_files.csv`, `copies.csv` and, with annotations,
            `bad_annotations.csv`; None writes nothing.
        options: `max_bad` decides whether the data passes.

    Raises:
        DataError: if more images or annotations are bad than accepted, once everything is printed and written.
    """
    world, teller = World.here(), Teller(quiet=options.quiet)
    index = opened(data, options, teller)
    verdicts = judged(index, options.changed(max_bad=1.0), teller)
    annotations = annotations_of(index)
    if world.is_first:
        speed = _images_per_second(index, verdicts)
        _show(verdicts, teller, speed)
        _show_copies(verdicts, teller, is_written=out is not None)
        if annotations is not None:
            _show_annotations(annotations, teller)
        if out is not None:
            _write(Path(out), verdicts, annotations, speed)
            teller.say(f"written: {printable(Path(out) / 'data_check.json')}, bad_files.csv, copies.csv")
    world.barrier(patient=True)  # until the files are there
    verdicts.require(max_bad=options.max_bad)
    if annotations is not None:
        annotations.require(masks=False, max_bad=options.max_bad, where=verdicts.name)
    return verdicts


def _write(out: Path, verdicts: Verdicts, annotations: Annotations | None, speed: float) -> None:
    more = {} if annotations is None else {"annotations": annotations.to_json()}
    write_json(out / "data_check.json", verdicts.to_json() | {"images_per_second": speed} | more)
    verdicts.write_bad_files(out / "bad_files.csv")
    verdicts.write_copies(out / "copies.csv")
    if annotations is not None:
        annotations.write_faults(out / "bad_annotations.csv")


def _images_per_second(index: Index, verdicts: Verdicts) -> float:
    """Measure the loader speed of one process with the view of the paper's MAE, over a few images."""
    ids = np.flatnonzero(verdicts.good)[:_SPEED_IMAGES]
    if not len(ids):
        return 0.0
    view = View(size=224, crop=Resample())
    batches = TrainingBatches(index=index, ids=ids, views=(view,), batch_size=len(ids), seed=0)
    began = time.perf_counter()
    next(batches.from_step(0))
    return len(ids) / (time.perf_counter() - began)


def _show(verdicts: Verdicts, teller: Teller, speed: float) -> None:
    table = Table(title=printable(verdicts.name), show_header=False)
    found = verdicts.to_json()
    for split in SPLITS:
        classes = found["balance"].get(split, {})
        if classes:
            named = {k: v for k, v in classes.items() if k}
            spread = f", {len(named)} classes of {min(named.values()):,} to {max(named.values()):,}" if named else ""
            if named and not any(named.values()):
                spread = ", no labels"
            table.add_row(f"{split} images", f"{sum(classes.values()):,}{spread}")
    table.add_row("unusable", f"{found['num_bad']:,}")
    table.add_row("remarked on", f"{found['num_warnings']:,}")
    table.add_row("stored as", ", ".join(f"{k} {v:,}" for k, v in found["modes"].items()))
    table.add_row("size (min, median, max)", f"{_triple(found['widths'])} wide, {_triple(found['heights'])} high")
    for key, name in _COPIES.items():
        table.add_row(name, f"{found[key]['count']:,}")
    table.add_row("loader", f"{speed:,.0f} images/s in one process at 224 px")
    teller.console.print(table)
    for path, reason in found["bad"]:
        teller.say(f"unusable: {path}: {reason}")
    if found["num_bad"] > len(found["bad"]):
        teller.say(f"… and {plural(found['num_bad'] - len(found['bad']), 'more file')}")


def _show_copies(verdicts: Verdicts, teller: Teller, *, is_written: bool) -> None:
    """Name the first pair of each kind, and say where the others are."""
    more = False
    for kind, pairs in verdicts.pairs.items():
        for first, second in pairs.examples[:1]:
            rest = f", and {plural(pairs.count - 1, 'more pair')}" if pairs.count > 1 else ""
            teller.say(f"{_COPIES[kind]}: {printable(first)} and {printable(second)}{rest}")
            more |= pairs.count > 1
        if is_written and len(pairs) < pairs.count:
            teller.say(f"note: copies.csv has the first {len(pairs):,} of them")
    if more and not is_written:
        teller.say("all with --out DIR, in copies.csv")


def _show_annotations(annotations: Annotations, teller: Teller) -> None:
    found = annotations.to_json()
    table = Table(title="annotations", show_header=False)
    counts = annotations.balance().values()
    present = [count for count in counts if count]
    spread = f" of {min(present):,} to {max(present):,}" if present else ""
    table.add_row("objects", f"{len(annotations.columns['boxes']):,}, {len(present)} of {len(counts)} classes{spread}")
    table.add_row("crowds", f"{int(annotations.columns['crowds'].sum()):,}")
    table.add_row("images without objects", f"{found['num_images_without']:,}")
    table.add_row("left out", f"{annotations.num_left_out:,}")
    teller.console.print(table)
    for fault in annotations.faults:
        first = ", ".join(fault["examples"][:_FIRST])
        teller.say(f"{fault['kind']}: {fault['count']:,}; {fault['rule']}. Such as {first}")


def _triple(values: list[int]) -> str:
    return " / ".join(f"{v:,}" for v in values)
