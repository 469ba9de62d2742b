"""Pages about runs and replications, and the documents that jobs write."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlet.console import Teller
from vitlet.disk import existing, read_json, write_json
from vitlet.distributed.world import World
from vitlet.errors import UsageError
from vitlet.jobs.spread import by_first_rank
from vitlet.json_objects import JsonObject
from vitlet.run import Run
from vitlet.text import printable


@by_first_rank
def report(runs: Sequence[str | os.PathLike[str]], *, out: str | os.PathLike[str]) -> Path:
    """Write one self-contained page about one or several runs, side by side, or about a replication.

    Where all runs belong to one demo, its comparison comes first.

    Args:
        runs: Run directories, or one `replication.json`.
        out: The HTML file; replaced atomically.

    Returns:
        The page.

    Raises:
        UsageError: without a run, or for a file that is not about a replication.
        CheckpointError: if there is no run, or a file of one is damaged.
        ResourceError: if `out` cannot be written.
    """
    # Late, as matplotlib takes a second.
    from vitlet.reports.contents import find_comparison
    from vitlet.reports.page import write_page
    from vitlet.reports.replication import write_replication_page

    match runs:
        case [single] if Path(single).suffix == ".json":
            page = write_replication_page(_replication(Path(single)), out=Path(out))
        case _:
            page = write_page(runs, out=out, comparison=find_comparison([Run.open(run) for run in runs]))
    Teller().say(f"page: {printable(page)}")
    return page


def _replication(file: Path) -> JsonObject:
    document = read_json(existing(file))
    if not isinstance(document, JsonObject) or document.get("kind") != "replication":
        raise UsageError(
            f"{printable(file)} is not about a replication",
            fix="give a replication.json of vitlet reproduce, or run directories",
        )
    return document


def write_document(found: Mapping[str, Any], *places: Path | None, teller: Teller) -> None:
    """Write a document to every place that is given, and say so; of several ranks the first alone does."""
    for path in places:
        if path is not None and World.here().is_first:
            write_json(path, found)
            teller.say(f"written: {printable(path)}")
