"""One self-contained HTML page about one or more runs: verdict first, then the evidence, then how to reproduce it.

The page needs no network and holds no script; its content policy forbids both. Outside text (names, commands, reasons)
enters it only through `text.printable` and the template's escaping. Equal files give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitlet.disk import write_file
from vitlet.report import evidence, provenance
from vitlet.report.contents import Contents, find_comparison, read
from vitlet.report.objects import objects
from vitlet.report.tables import between, duration, metric_title, percent, points
from vitlet.run import Run
from vitlet.text import plural, printable


@dataclass(frozen=True)
class Verdict:
    """The head of a comparing page: the answer, its sentence, and the numbers behind it."""

    question: str
    answer: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    plot: evidence.Plot | None


def write_page(runs: Sequence[Run], *, out: Path, comparison: dict[str, Any] | None = None) -> Path:
    """Write the page about `runs`, side by side, to `out`.

    Args:
        runs: At least one; only files in their folders are read, and a missing file drops its section.
        out: The HTML file; replaced atomically.
        comparison: What the runs were made to decide; by default the `comparison.json` next to them, if any.

    Returns:
        `out`.

    Raises:
        CheckpointError: if a file of a run is damaged.
        ResourceError: if `out` cannot be written.
    """
    assert runs, "a page is about at least one run"
    if comparison is None:
        comparison = find_comparison(runs)
    page = template("report.html.j2").render(_page(read(runs), comparison))
    write_file(out, page.encode())
    return out


def _page(runs: list[Contents], comparison: dict[str, Any] | None) -> dict[str, Any]:
    verdict = _verdict(comparison) if comparison else None
    title = verdict.question if verdict else " · ".join(run.name for run in runs)
    content = {
        "title": title,
        "data_name": ((comparison or {}).get("data") or {}).get("name", ""),
        "date": min((run.environment.get("started", "")[:10] for run in runs if run.environment), default=""),
        "verdict": verdict,
        "names": [run.name for run in runs],
        "summaries": [(run.name, _summary(run)) for run in runs],
        "accuracy": evidence.accuracy(runs, comparison),
        "losses": evidence.losses(runs, comparison),
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


def _verdict(comparison: dict[str, Any]) -> Verdict:
    """The answer, with the numbers of the first protocol that measured a difference."""
    verdict = comparison["verdict"]
    protocol = next((p for p in comparison["protocols"] if p.get("difference")), None)
    facts: list[tuple[str, str]] = []
    plot = None
    if protocol:
        change = protocol["difference"]
        interval = None if change["low"] is None else (change["low"], change["high"])
        confidence = percent(change.get("confidence", 0.95)).replace(".0", "")
        facts = [
            ("difference, points", points(change["mean"])),
            (f"{confidence} interval, points", between(interval, form=points) if interval else "none"),
            (f"n, {protocol.get('split', 'test')} images", f"{protocol['n']:,}"),
        ]
        if "pairs" in change:
            facts.append(("pairs of seeds", f"{change['pairs']:,}"))
        plot = evidence.difference_plot(
            change["mean"], interval, title=f"{protocol['title']}: {metric_title(protocol['metric'])}"
        )
    answer, sentence = verdict["answer"].capitalize(), verdict["sentence"]
    if sentence.startswith(f"{answer}: "):  # the sentence already includes the answer
        answer, _, sentence = sentence.partition(" ")
    else:
        answer += "."
    return Verdict(comparison["question"], answer, sentence, tuple(facts), plot)


def _summary(run: Contents) -> str:
    """A sentence about a run that is not part of a comparison."""
    words = [f"Recipe {run.recipe.get('name', 'without a name')}"]
    if run.metrics:
        words.append(plural(run.metrics[-1]["step"], "step"))
    if "wall_seconds" in run.environment:
        words.append(f"finished in {duration(run.environment['wall_seconds'])}")
    losses = [row["loss"] for row in run.metrics if row.get("loss") is not None]
    if losses:
        words.append(f"training loss from {losses[0]:.3g} to {losses[-1]:.3g}")
    looks = [row["probe"]["verdict"] for row in run.probes if row["probe"].get("verdict")]
    if looks:
        words.append(f"last health check: {looks[-1]}")
    return ", ".join(words) + "."


def template(name: str) -> Any:
    """Load a page's template; everything it shows is escaped and printable."""
    environment = Environment(
        loader=PackageLoader("vitlet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    """Make every expression of the template printable before it is escaped; vitlet's own markup passes unchanged."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
