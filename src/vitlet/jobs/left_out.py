"""The images that a run has left out since it began, so that it can go on without them.

An image that could not be read once, from a store or a network drive, may be readable when the run is resumed. The run
goes on as it would have without the interruption: with the images that it began with.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.data.verdicts import Verdicts
from vitlet.disk import read_json, to_json_bytes, write_file
from vitlet.distributed.world import World
from vitlet.errors import CheckpointError
from vitlet.jobs.options import Options
from vitlet.run import Run
from vitlet.text import plural, printable

_REASON = "it could not be used when the run began"


def known_left_out(run: Run, index: Index, options: Options, world: World) -> np.ndarray | None:
    """Return the rows that the run has left out, on all ranks as the first finds them.

    Returns:
        Int64 [k]; None for a new run, for other data, or if the options accept other images.

    Raises:
        CheckpointError: if the file is damaged.
    """
    is_asked = world.is_first and not options.accept_data_change and run.left_out_file.is_file()
    facts = world.broadcast_json(read_json(run.left_out_file) if is_asked else None)
    if facts is None:
        return None
    is_whole = isinstance(facts, Mapping) and {"data", "num_images", "rows"} <= facts.keys()
    if is_whole and facts["data"] != index.fingerprint:
        return None
    if not (is_whole and facts["num_images"] == len(index) and _are_rows(facts["rows"], len(index))):
        raise CheckpointError(
            f"{printable(run.left_out_file)} is damaged",
            why="It does not list rows of these images",
            fix="restore it from a copy, or go on with --accept-data-change, with the images that can be used now",
        )
    return np.array(facts["rows"], dtype=np.int64)


def _are_rows(values: Any, length: int) -> bool:
    return isinstance(values, list) and all(type(row) is int and 0 <= row < length for row in values)


def leave_out_again(index: Index, verdicts: Verdicts, rows: np.ndarray, teller: Teller) -> Verdicts:
    """Return the verdicts without the images of `rows`, with a note if any of them could be used now."""
    rows = rows[verdicts.good[rows]]
    if not len(rows):
        return verdicts
    teller.say(
        f"note: {plural(len(rows), 'image')} that could not be used when the run began can be now: left out again, "
        f"such as {printable(index.path(int(rows[0])))}"
    )
    return verdicts.without(index, rows, reason=_REASON)


def record_left_out(run: Run, index: Index, good: np.ndarray) -> None:
    """Write down which images the run leaves out, unless that stands there.

    Raises:
        ResourceError: if it cannot be written.
    """
    facts = {"data": index.fingerprint, "num_images": len(index), "rows": np.flatnonzero(~good).tolist()}
    content = to_json_bytes(facts)
    if not run.left_out_file.is_file() or run.left_out_file.read_bytes() != content:
        write_file(run.left_out_file, content)
