"""One self-contained HTML page about one or more runs: verdict first, then the evidence, then how to reproduce it.

The page needs no network and holds no script; its content policy forbids both. Outside text (names, commands, reasons)
enters it only through `text.printable` and the template's escaping. Equal files give equal bytes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlet.disk import write_file
from vitlet.errors import UsageError
from vitlet.reports import evidence, provenance
from vitlet.reports.contents import Contents, read
from vitlet.reports.elements import template
from vitlet.reports.numbers import duration
from vitlet.reports.objects import objects
from vitlet.reports.verdict import of_comparison, of_runs
from vitlet.run import Run
from vitlet.text import plural


def write_page(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    comparison: dict[str, Any] | None = None,
) -> Path:
    """Write the page about `runs`, side by side, to `out`.

    Args:
        runs: Run directories, at least one; only files in them are read, and a missing file drops its section.
        out: The HTML file; replaced atomically.
        comparison: What the runs were made to decide, see `find_comparison`; None: nothing together.

    Returns:
        `out`.

    Raises:
        UsageError: without a run.
        CheckpointError: if there is no run, or a file of one is damaged.
        ResourceError: if `out` cannot be written.
    """
    if not runs:
        raise UsageError("no run given", fix="vitlet report RUN --out FILE.html")
    opened = [Run.open(run) for run in runs]
    page = template("report.html.j2").render(_page(read(opened, comparison), comparison))
    write_file(Path(out), page.encode())
    return Path(out)


def _page(runs: list[Contents], comparison: dict[str, Any] | None) -> dict[str, Any]:
    verdict = of_comparison(comparison) if comparison else of_runs(runs)
    title = comparison["question"] if comparison else " · ".join(run.name for run in runs)
    content = {
        "title": title,
        "data_name": ((comparison or {}).get("data") or {}).get("name", ""),
        "date": min((run.environment.started[:10] for run in runs if run.environment.is_there), default=""),
        "verdict": verdict,
        "names": [run.name for run in runs],
        "summaries": [(run.name, _summary(run)) for run in runs],
        "accuracy": evidence.accuracy(runs, comparison),
        "losses": evidence.losses(runs),
        "pictures": evidence.pictures(runs),
        "objects": objects(runs),
        "health": evidence.health(runs),
        "data": provenance.data(runs, comparison),
        "results": provenance.results(runs),
        "made": provenance.made(runs, comparison),
    }
    sections = (
        ("accuracy", "Accuracy"), ("objects", "Objects found"), ("losses", "Loss curves"),
        ("pictures", "What the model sees"),
        ("health", "Health during pre-training"), ("data", "Data"), ("made", "What was run"),
    )  # fmt: skip
    return content | {"sections": [(key, words) for key, words in sections if content[key]]}


def _summary(run: Contents) -> str:
    """A sentence about a run that is not part of a comparison."""
    words = [f"Recipe {run.recipe.get('name', 'without a name')}"]
    if run.metrics:
        words.append(plural(run.metrics[-1]["step"], "step"))
    if run.environment.is_finished:
        words.append(f"finished in {duration(run.environment.wall_seconds)}")
    losses = [row["loss"] for row in run.metrics if row.get("loss") is not None]
    if losses:
        words.append(f"training loss from {losses[0]:.3g} to {losses[-1]:.3g}")
    looks = [row["probe"]["verdict"] for row in run.probes if row["probe"].get("verdict")]
    if looks:
        words.append(f"last health check: {looks[-1]}")
    return ", ".join(words) + "."
