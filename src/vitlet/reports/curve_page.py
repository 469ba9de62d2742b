"""The page about accuracies as a function of a varied setting: answers first, then curves, costs and provenance.

Drawn from the document of `vitlet.evaluation.curves` alone. The page keeps the guarantees of `vitlet.reports.page`: one
file, no script, no network, and outside text only through the template's escaping.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from vitlet.disk import write_file
from vitlet.reports.elements import Plot, Table, plot_key, standalone, template
from vitlet.reports.intervals import Level, Measured, Series, interval_curves
from vitlet.reports.numbers import between, duration, percent
from vitlet.reports.tables import interval_of_arm, without_interval
from vitlet.text import shareable

_WIDE, _NARROW = (720, 340), (350, 280)
_ANSWERS = ("yes", "no", "undecided")


@dataclass(frozen=True)
class Counted:
    """The number of questions with a given answer."""

    answer: str
    number: int


def write_curve_page(document: Mapping[str, Any], *, folder: Path) -> Path:
    """Write `report.html` and `figures/*.svg` in `folder`.

    Args:
        document: Document from `evaluate.curves.document`, with `machine` and `wall_seconds`.
        folder: Output folder.

    Returns:
        The page.

    Raises:
        ResourceError: if a file cannot be written.
    """
    styles = _styles(document["starts"])
    plots = [_plot(curve, document["axis"], styles) for curve in document["curves"]]
    page = template("curve.html.j2").render(
        document=document,
        counted=[Counted(a, sum(q["answer"] == a for q in document["questions"])) for a in _ANSWERS],
        plots=plots,
        tables=[_accuracies(curve) for curve in document["curves"]],
        costs=_costs(document),
        facts=_facts(document),
        command=shareable(document["machine"]["command"]),
    )
    write_file(folder / "report.html", page.encode())
    for curve, plot in zip(document["curves"], plots, strict=True):
        write_file(folder / "figures" / f"{curve['name']}.svg", standalone(plot.drawings[0]).encode())
    return folder / "report.html"


def _styles(starts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The second, grey style for the first random weights, as on a run's page; the others take the rest in order."""
    random = next((start["name"] for start in starts if start["source"] is None), None)
    others = [start["name"] for start in starts if start["name"] != random]
    styles = {name: number + (number > 0) for number, name in enumerate(others)}
    return styles if random is None else styles | {random: 1}


def _plot(curve: Mapping[str, Any], axis: Mapping[str, str], styles: Mapping[str, int]) -> Plot:
    names = list(dict.fromkeys(arm["name"] for point in curve["points"] for arm in point["arms"]))
    titles = {arm["name"]: arm["title"] for point in curve["points"] for arm in point["arms"]}
    series = []
    for name in names:
        pairs = [(p["x"], a) for p in curve["points"] for a in p["arms"] if a["name"] == name]
        scores = tuple(_measured(arm) for _, arm in pairs)
        series.append(Series(tuple(x for x, _ in pairs), scores, styles[name]))
    levels = [Level(_measured(arm), styles[arm["name"]]) for arm in curve["references"]]
    ticks = [(point["x"], point["tick"] or f"{point['x']:,.0f}") for point in curve["points"]]
    drawings = tuple(
        interval_curves(
            series, name=f"{curve['name']}-{i}", x_label=axis["label"], scale=axis["scale"],  # type: ignore[arg-type]
            ticks=ticks, levels=levels, size=size,
        )
        for i, size in enumerate((_WIDE, _NARROW))
    )  # fmt: skip
    lines = [
        *((styles[name], titles[name]) for name in names),
        *((styles[arm["name"]], f"{arm['title']} (line)") for arm in curve["references"]),
    ]
    return Plot(
        title=curve["title"],
        finding=_finding(curve),
        drawings=tuple(map(Markup, drawings)),
        key=plot_key(lines),
        note=f"{curve['split']} split, n = {curve['n']:,}. Large dots are means over seeds, bars their 95 % intervals, "
        "hollow dots single seeds. Arms stand a little beside each other.",
    )


def _finding(curve: Mapping[str, Any]) -> str:
    ends = []
    for point in (curve["points"][0], curve["points"][-1]):
        ends.append(f"{point['label']}: " + ", ".join(f"{a['title']} {percent(a['mean'])}" for a in point["arms"]))
    return f"{curve['title']}. From {'; to '.join(ends)}."


def _measured(arm: Mapping[str, Any]) -> Measured:
    return Measured(tuple(arm["values"]), arm["mean"], interval_of_arm(arm))


def _accuracies(curve: Mapping[str, Any]) -> Table:
    """Mean, interval and individual values of each arm at each point."""
    rows = []
    for point in curve["points"]:
        for arm in (*point["arms"], *curve["references"]):
            score = _measured(arm)
            interval = between(score.interval) if score.interval else without_interval(arm)
            single = ", ".join(f"{100 * value:.1f}" for value in score.values)
            cost = duration(float(np.mean(arm["cpu_seconds"])))
            rows.append((f"{point['label']}: {arm['title']}", percent(score.mean), interval, single, cost))
    columns = ("", "top-1", "95 % interval", "single seeds, %", "CPU time of one")
    return Table(curve["title"], columns, tuple(rows), numeric=(1, 4))


def _costs(document: Mapping[str, Any]) -> Table:
    """CPU time of each start: its pre-training once, and all fine-tuning in this document."""
    rows = []
    for start in document["starts"]:
        arms = [
            arm
            for curve in document["curves"]
            if curve["name"] == "finetune"
            for arm in (*(a for p in curve["points"] for a in p["arms"]), *curve["references"])
            if arm["name"] == start["name"]
        ]
        spent = sum(float(np.sum(arm["cpu_seconds"])) for arm in arms)
        cost = start["pretraining_cpu_seconds"]
        before = "none" if start["source"] is None else "not recorded" if cost is None else f"{cost:,.0f}"
        rows.append((start["title"], before, f"{spent:,.0f}", start["source"] or "drawn anew for each seed"))
    columns = ("start", "pre-training, CPU seconds", "fine-tuning here, CPU seconds", "weights")
    return Table("Cost", columns, tuple(rows), numeric=(1, 2))


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, budget, machine = document["data"], document["budget"], document["machine"]
    length = budget["duration"]
    return [
        ("data", f"{data['name']} ({data['fingerprint'][:12]})"),
        ("training images with labels", f"{data['num_train']:,}"),
        ("images counted on", f"{data['num_test']:,}"),
        ("classes", f"{len(data['classes']):,}"),
        ("fine-tuning", f"{budget['recipe']}, {length['n']:,} {length['unit']} in batches of {budget['batch_size']:,}"),
        ("seeds", ", ".join(map(str, budget["seeds"]))),
        ("tests", document["correction"]),
        ("time", duration(document["wall_seconds"])),
        ("machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("software", ", ".join(f"{name} {version}" for name, version in machine["packages"].items())),
    ]
