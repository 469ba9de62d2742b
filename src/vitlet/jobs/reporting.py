"""Pages about runs and replications, and the documents that jobs write."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlet.console import Teller
from vitlet.disk import read_json, write_json
from vitlet.distributed.world import World
from vitlet.errors import UsageError
from vitlet.text import printable


def report(runs: Sequence[str | os.PathLike[str]], *, out: str | os.PathLike[str]) -> Path:
    """Write one self-contained page about one or several runs, side by side."""
    from vitlet.report.page import write_page  # late, as matplotlib takes a second

    page = write_page(runs, out=out)
    Teller().say(f"page: {printable(page)}")
    return page


def report_replication(file: str | os.PathLike[str], *, out: str | os.PathLike[str]) -> Path:
    """Write the page about a replication from its JSON.

    Raises:
        UsageError: if the file is not about a replication.
    """
    from vitlet.report.replication import write_replication_page

    document = read_json(Path(file))
    if not isinstance(document, dict) or document.get("kind") != "replication":
        raise UsageError(
            f"{printable(file)} is not about a replication",
            fix="give a replication.json of vitlet reproduce, or run directories",
        )
    page = write_replication_page(document, out=Path(out))
    Teller().say(f"page: {printable(page)}")
    return page


def write_document(found: Mapping[str, Any], *places: Path | None, teller: Teller) -> None:
    """Write a document to every place that is given, and say so; of several ranks the first alone does."""
    for path in places:
        if path is not None and World.here().is_first:
            write_json(path, found)
            teller.say(f"written: {printable(path)}")
