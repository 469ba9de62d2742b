"""The page about the replication: claims, tables and figures, keeping published, measured and not run apart.

It is drawn from the document of `vitlet.replication.findings` alone, so the same page can be rebuilt from an entry of
the ledger. It keeps the guarantees of `vitlet.reports.page`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from vitlet.disk import write_file
from vitlet.reports import charts, figures
from vitlet.reports.claims import effect, headline, runs_behind, sample
from vitlet.reports.elements import Plot, plot_key, template
from vitlet.reports.figures import Curve
from vitlet.reports.numbers import between, between_shares, duration, percent
from vitlet.text import counted, plural, points

_SIZE = (350, 240)


@dataclass(frozen=True)
class Line:
    """One number of a table: its title, and the cells for published, measured and not run."""

    title: str
    published: str
    is_confirmed: bool
    measured: str
    not_run: str
    note: str


@dataclass(frozen=True)
class Row:
    """One row of a table: a line per column; if there is a single column, its line has the title of the row."""

    title: str
    lines: tuple[Line, ...]

    @property
    def is_measured(self) -> bool:
        """Whether any of its numbers was measured here."""
        return any(line.measured for line in self.lines)


@dataclass(frozen=True)
class Shown:
    """One table or figure."""

    name: str
    label: str
    title: str
    about: str
    rows: tuple[Row, ...]
    plots: tuple[Plot, ...]
    remark: str
    """Why nothing is drawn, or what the drawing shows."""


@dataclass(frozen=True)
class ShownClaim:
    """One claim with the numbers that decide it."""

    number: int
    statement: str
    source: str
    answer: str
    why: str
    parts: tuple[tuple[str, ...], ...]
    """(what, effect, interval, n, answer)."""
    beside: tuple[tuple[str, ...], ...]
    """The same for parts that do not affect the answer."""
    runs: tuple[str, ...]


def write_replication_page(document: Mapping[str, Any], *, out: Path) -> Path:
    """Write the page for a document of `vitlet.replication.findings` to `out`, replacing it atomically.

    Returns:
        `out`.

    Raises:
        ResourceError: if `out` cannot be written.
    """
    claims = [_claim(claim) for claim in document["claims"]]
    items = [_item(item) for item in document["items"]]
    page = template("replication.html.j2").render(
        document=document,
        claims=claims,
        headline=headline(document["claims"]) or f"{plural(len(items), 'table or figure', 'tables and figures')}",
        items=items,
        seeds=plural(len(document["seeds"]), "seed"),
        machine=_machine(document),
        plural=plural,
        failed=document["failed"],
        runs=[
            (
                run["title"],
                str(run["seed"]),
                run["name"],
                run["recipe"],
                run["finished"][:10],
                run["commit"],
                duration(run["cpu_seconds"]),
            )
            for run in document["runs"]
        ],
    )
    write_file(out, page.encode())
    return out


def items_markdown(document: Mapping[str, Any], *, page: str) -> str:
    """Tables and figures of a document in Markdown, with the same three columns for every number.

    Args:
        document: Document of `vitlet.replication.findings`.
        page: Address of the page for the same document, which has the drawings.
    """
    blocks = []
    for item in map(_item, document["items"]):
        blocks.append(f"### {item.label}: {item.title} ({document['scale']})\n\n{item.about}")
        if item.remark:
            blocks.append(item.remark)
        if item.plots:
            drawn = "\n".join(f"* {plot.title}: {plot.finding}" for plot in item.plots)
            blocks.append(f"[Drawings]({page}#{item.name}):\n\n{drawn}")
        if item.rows:
            blocks.append("\n".join(_markdown_rows(item)))
    blocks.append("### Sources\n\n" + "\n".join(f"* [{tag}] {words}" for tag, words in document["tags"].items()))
    return "\n\n".join(blocks)


def _markdown_rows(item: Shown) -> Iterator[str]:
    yield "| row | published | measured here | not run | note |"
    yield "|---|---|---|---|---|"
    for row in item.rows:
        for line in row.lines:
            title = f"{row.title}: {line.title}" if row.title else line.title
            cells = (title, line.published, line.measured, line.not_run, line.note)
            yield f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


def _claim(claim: Mapping[str, Any]) -> ShownClaim:
    parts, beside = (tuple(map(_part, claim[where])) for where in ("parts", "beside"))
    head = claim["number"], claim["statement"], claim["source"], claim["answer"], claim["why"]
    return ShownClaim(*head, parts, beside, tuple(runs_behind(claim)))


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    return part["title"], *effect(part), sample(part), part["answer"]


def _item(item: Mapping[str, Any]) -> Shown:
    called = label(item["name"])
    if "drawing" in item:
        expected = f"Published: {item['expected']['text']} [{item['expected']['tag']}]"
        plots = _drawings(item) if item["measured"] else ()
        remark = f"not run: {item['not_run']}" if item["not_run"] else _seen(item["measured"])
        return Shown(item["name"], called, item["title"], f"{item['about']} {expected}", (), tuple(plots), remark)
    is_single = len(item["columns"]) == 1
    rows = tuple(
        Row(
            "" if is_single else row["title"],
            tuple(
                _line(row["title"] if is_single else column, cell)
                for column, cell in zip(item["columns"], row["cells"], strict=True)
                if cell is not None
            ),
        )
        for row in item["rows"]
    )
    plots = _curves(item) if item["axis"] else ()
    return Shown(item["name"], called, item["title"], item["about"], rows, tuple(plots), "")


def label(name: str) -> str:
    """Turn `table-1` into Table 1, `appendix-a1` into Appendix A.1."""
    kind, number = name.split("-")
    return f"{kind.capitalize()} {number if number.isdigit() else f'{number[0].upper()}.{number[1:]}'}"


def _line(title: str, cell: Mapping[str, Any]) -> Line:
    published, measured = cell["published"], cell["measured"]
    printed = "unknown" if published is None else f"{published['printed']} [{published['tag']}]"
    if published is not None and not published["is_confirmed"]:
        printed = f"unconfirmed: {printed}"
    here = "" if measured is None else f"here: {'; '.join(filter(None, (measured['stand_in'], measured['origin'])))}"
    note = "; ".join(filter(None, (published["note"] if published else "", cell["note"], here)))
    words = "" if measured is None else _measured(measured)
    is_confirmed = bool(published and published["is_confirmed"])
    return Line(title, printed, is_confirmed, words, cell["not_run"] or "", note)


def _measured(measured: Mapping[str, Any]) -> str:
    sizes = counted(len(measured["values"]), measured["n"])
    mean, low, high = (measured[key] for key in ("mean", "low", "high"))
    value = f"{points(mean)} points" if measured["is_difference"] else percent(mean)
    if low is None:
        return f"{value} ({sizes}, no interval)"
    interval = between((low, high), form=points) if measured["is_difference"] else between_shares(low, high)
    return f"{value} ({interval}, {sizes})"


def _seen(measured: Mapping[str, Any]) -> str:
    return f"Mean over {plural(len(measured['seeds']), 'seed')}, {measured['images']:,} images each."


def _curves(item: Mapping[str, Any]) -> list[Plot]:
    """Rows as lines over the numeric columns; nothing if fewer than two points are measured."""
    places = [(i, float(c)) for i, c in enumerate(item["columns"]) if c.replace(".", "", 1).isdigit()]
    rows = []
    for row in item["rows"]:
        line = [
            (x, row["cells"][i]["measured"]["mean"])
            for i, x in places
            if row["cells"][i] is not None and row["cells"][i]["measured"] is not None
        ]
        if len(line) > 1:
            rows.append((row["title"], [x for x, _ in line], [y for _, y in line]))
    if not rows:
        return []
    name = item["name"]
    lines = [Curve(x, y, style=style) for style, (_, x, y) in enumerate(rows)]
    drawing = figures.curves(lines, name=name, size=_SIZE, x_label=item["axis"], y_label=item["unit"], percent=True)
    key = plot_key(enumerate(title for title, _, _ in rows))
    finding = "; ".join(f"{title}: from {percent(y[0])} to {percent(y[-1])}" for title, _, y in rows)
    return [Plot("Measured here", f"{item['unit']}: {finding}.", (Markup(drawing),), key=key)]


def _drawings(item: Mapping[str, Any]) -> list[Plot]:
    return {"similarity": _similarity, "attention": _attention, "spectrum": _spectrum}[item["drawing"]](item)


def _similarity(item: Mapping[str, Any]) -> list[Plot]:
    plots, diagonals = [], []
    for number, (name, values) in enumerate(item["measured"]["cka"].items()):
        cka = np.array(values)
        drawing = charts.heat_map(
            cka, name=f"{item['name']}-map-{number}", x_label=f"layer of encoder {number + 1}",
            y_label="layer of encoder 1",
        )  # fmt: skip
        words = f"CKA from {cka.min():.2f} to {cka.max():.2f}."
        plots.append(Plot(f"{item['reference']} (1) and {name} ({number + 1})", words, (Markup(drawing),), note=words))
        if cka.shape[0] == cka.shape[1]:
            diagonals.append((name, list(map(float, cka.diagonal()))))
    return [*plots, _over_layers(item, "The same layer of both", diagonals, "CKA")]


def _spectrum(item: Mapping[str, Any]) -> list[Plot]:
    rows = [(name, values) for name, values in item["measured"]["spectrum"].items()]
    return [_over_layers(item, "Highest minus lowest frequency", rows, "Δ log amplitude")]


def _attention(item: Mapping[str, Any]) -> list[Plot]:
    plots = []
    for quantity, unit in (("distance", "distance, patches"), ("entropy", "entropy, nats")):
        heads = {name: np.array(values) for name, values in item["measured"][quantity].items()}
        high = 1.05 * max(float(values.max()) for values in heads.values())
        for number, (name, values) in enumerate(heads.items()):
            drawing = charts.boxes(
                list(values), name=f"{item['name']}-{quantity}-{number}", high=high, x_label="block", y_label=unit
            )
            means = values.mean(axis=1)
            words = f"{unit}: mean of the heads from {means[0]:.2f} in the first block to {means[-1]:.2f} in the last."
            plots.append(Plot(f"{name}: {quantity}", words, (Markup(drawing),)))
    return plots


def _over_layers(item: Mapping[str, Any], title: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str) -> Plot:
    name = f"{item['name']}-lines-{'-'.join(unit.lower().split())}".replace("δ", "delta")
    lines = [Curve(range(len(y)), y, style=style) for style, (_, y) in enumerate(rows)]
    drawing = figures.curves(lines, name=name, size=_SIZE, x_label="layer", y_label=unit)
    key = plot_key(enumerate(subject for subject, _ in rows))
    finding = "; ".join(f"{subject}: from {y[0]:.2f} to {y[-1]:.2f}" for subject, y in rows)
    return Plot(title, f"{unit}: {finding}.", (Markup(drawing),), key=key)


def _machine(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machines of the runs, which need not be the one that makes the page."""
    runs = document["runs"]
    made = {(run["processor"], run["cores"]): None for run in runs}
    versions = {f"torch {run['torch']}" + f", commit {run['commit']}" * bool(run["commit"]): None for run in runs}
    return [
        ("scale", f"{document['scale']}: {document['about']}"),
        ("runs finished", f"{len(runs):,}"),
        ("runs not made", f"{len(document['waiting']):,}"),
        ("CPU time", duration(math.fsum(run["cpu_seconds"] for run in runs))),
        ("machine", "; ".join(f"{processor}, {plural(cores, 'core')}" for processor, cores in made)),
        ("software", "; ".join(versions)),
    ]
