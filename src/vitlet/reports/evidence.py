"""The sections with the findings: accuracy, loss curves, pictures, health. Each is independent of the others."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from vitlet.reports import figures, tables
from vitlet.reports.canvas import swatch
from vitlet.reports.contents import Contents, Reconstructions
from vitlet.reports.elements import Picture, Pictures, Plot, plot_key
from vitlet.reports.figures import Curve
from vitlet.reports.numbers import SPACE, between, duration, percent, significant
from vitlet.text import plural, points

_WIDE, _NARROW, _PANEL = (720, 320), (350, 260), (264, 200)
_PICTURES_IN_A_ROW, _MOST_PICTURES = 4, 8

_HEALTH = (
    ("knn_top1", "kNN on frozen features", "top-1 accuracy, %", True),
    ("feature_std", "Feature spread", "standard deviation", False),
    ("effective_rank", "Effective rank", "dimensions", False),
)
# Where the brightness and contrast of a removed patch come from: shown with the pictures, so that nobody mistakes the
# target's own for a prediction.
_STATISTICS = {"predicted": "predicted too", "visible": "from the visible patches"}


@dataclass(frozen=True)
class ChartRow:
    """A row of the accuracy chart: numbers as text, and their drawing."""

    title: str
    drawing: Markup
    key: Markup
    mean: str
    interval: str
    about: str
    """Seeds, their values, CPU time."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy chart: groups of rows over one axis."""

    groups: tuple[tuple[tables.Group, tuple[ChartRow, ...], Markup], ...]
    """Each group with its rows and the axis below them."""
    chance: str
    note: str
    """What the arms are, if that needs explaining."""


@dataclass(frozen=True)
class Health:
    """Measurements of frozen features during training."""

    verdicts: tuple[tuple[str, str, str], ...]
    """Run, its last verdict, and the reason given."""
    plots: tuple[Plot, ...]


def accuracy(runs: Sequence[Contents], comparison: dict[str, Any] | None) -> Accuracy | None:
    """The comparison's arms if there is one, otherwise the runs' own results; None if nothing was measured."""
    groups = tables.groups_of_comparison(comparison) if comparison else tables.groups_of_results(runs)
    if not groups:
        return None
    rows = [row for group in groups for row in group.rows]
    classes = ((comparison or {}).get("data") or {}).get("classes") or ()
    chance = 1 / len(classes) if len(classes) > 1 else None
    scale = figures.scale([v for r in rows for v in (*r.values, *(r.interval or ()))], chance=chance)
    drawn = tuple(
        (
            group,
            tuple(_chart_row(row, scale, name=f"row-{i}-{j}") for j, row in enumerate(group.rows)),
            Markup(figures.axis(scale, name=f"row-{i}-axis")),
        )
        for i, group in enumerate(groups)
    )
    words = f"{percent(chance)} (1 of {len(classes)} classes)" if chance else ""
    return Accuracy(drawn, words, (comparison or {}).get("note", ""))


def difference_plot(mean: float, interval: tuple[float, float] | None, *, title: str) -> Plot:
    """The difference next to a line at zero."""
    finding = f"Difference {points(mean)} points; "
    if interval is None:
        finding += "there is no interval."
    else:
        low, high = interval
        place = "entirely above" if low > 0 else "entirely below" if high < 0 else "on both sides of"
        finding += f"its interval, {between(interval, form=points)}, lies {place} zero."
    return Plot(title, finding, (Markup(figures.difference(mean, interval, name="difference")),))


def losses(runs: Sequence[Contents]) -> tuple[Plot, ...]:
    """One figure for each kind of loss."""
    kinds: dict[tuple[str, str], list[Contents]] = {}
    for run in runs:
        if any(row.get("loss") is not None for row in run.metrics):
            kinds.setdefault(_loss(run), []).append(run)
    plots = []
    for number, ((_, unit), members) in enumerate(kinds.items()):
        recipes = ", ".join(dict.fromkeys(str(run.recipe.get("name", "")) for run in members))
        plot = _curves_plot(
            members, lambda row: row.get("loss"), name=f"loss-{number}", sizes=(_WIDE, _NARROW),
            title=f"Training loss of {recipes}", unit=unit,
        )  # fmt: skip
        plots += [plot] if plot else []
    return tuple(plots)


def pictures(runs: Sequence[Contents]) -> tuple[Pictures, ...]:
    """The reconstructions of every run that has any."""
    return tuple(_pictures(run.name, run.reconstructions) for run in runs if run.reconstructions)


def health(runs: Sequence[Contents]) -> Health | None:
    """kNN, feature spread and effective rank over the epochs; None if no run measured them."""
    members = [run for run in runs if any("held_out_top1" not in row["probe"] for row in run.probes)]
    if not members:
        return None
    plots = []
    for key, title, unit, is_share in _HEALTH:
        plot = _curves_plot(
            members, lambda row, key=key: (row.get("probe") or {}).get(key), sizes=(_PANEL,), title=title,
            unit=unit, name=f"health-{key.replace('_', '-')}", is_share=is_share,
        )  # fmt: skip
        plots += [plot] if plot else []
    verdicts = tuple(_last_words(run) for run in members if run.probes[-1]["probe"].get("verdict"))
    return Health(verdicts, tuple(plots))


def _last_words(run: Contents) -> tuple[str, str, str]:
    probe = run.probes[-1]["probe"]
    return run.name, probe["verdict"], probe.get("advice", "").removeprefix(f"{probe['verdict']}: ")


def _chart_row(row: tables.Row, scale: figures.Scale, *, name: str) -> ChartRow:
    drawing = figures.strip(figures.Strip(row.values, row.mean, row.interval, row.style), scale, name=name)
    seeds = ", ".join(str(seed) for seed in row.seeds)
    if len(row.values) > 1:
        single = ", ".join(percent(v).removesuffix(SPACE + "%") for v in row.values)
        about = [f"seeds {seeds}: {single}" if seeds else single]
    else:
        about = [f"seed {seeds}"] if seeds else []
    if row.cpu_seconds is not None:
        about.append(f"{duration(row.cpu_seconds)}{SPACE}CPU")
    return ChartRow(
        title=row.title,
        drawing=Markup(drawing),
        key=Markup(swatch(row.style)),
        mean=percent(row.mean),
        interval=between(row.interval) if row.interval else "",
        about=" · ".join(about),
    )


def _loss(run: Contents) -> tuple[str, str]:
    """The run's method and the unit of its loss: only equal pairs share an axis."""
    objective = run.recipe.get("objective") or {}
    method = str(objective.get("method", ""))
    pixels = "normalised pixels" if objective.get("norm_pixels", True) else "pixels"
    units = {"mae": f"squared error of {pixels}", "supervised": "cross-entropy, nats"}
    return method, units.get(method, "loss")


def _curves_plot(
    runs: Sequence[Contents],
    value: Callable[[dict[str, Any]], Any],
    *,
    name: str,
    title: str,
    unit: str,
    sizes: Sequence[tuple[int, int]],
    is_share: bool = False,
) -> Plot | None:
    """Plot `value` of every run's rows over the epochs, in the run's style; None if no value is finite."""
    smooth = not name.startswith("health")
    rows = {run.name: [row for row in run.metrics if value(row) is not None] for run in runs}
    # Rows with the same epoch would be drawn on top of each other; their steps differ.
    by_epoch = all(len({row.get("epoch") for row in logged}) == len(logged) for logged in rows.values())
    axis, x_label = ("epoch", "epoch") if by_epoch else ("step", "optimizer step")
    lines = [
        Curve([row[axis] for row in logged], [value(row) for row in logged], run.style)
        for run, logged in zip(runs, rows.values(), strict=True)
    ]
    drawings = tuple(
        figures.curves(
            lines, name=f"{name}-{i}", size=size, x_label=x_label, y_label=unit, percent=is_share, smooth=smooth
        )
        for i, size in enumerate(sizes)
    )
    if not drawings[0]:
        return None
    form: Callable[[float], str] = percent if is_share else significant
    ends = []
    for run, logged in rows.items():
        drawn = np.array([value(row) for row in logged], dtype=float)
        drawn = figures.smoothed(drawn) if smooth else drawn
        ends += [f"{run} from {form(drawn[0])} to {form(drawn[-1])}"] if logged else []
    finding = f"{title}, {unit}: {'; '.join(ends)}."
    window = figures.smoothing_window(max(map(len, rows.values())))
    note = f"Lines are running means over {window} logged steps; the single values stand pale behind them."
    return Plot(
        title=title,
        finding=finding,
        drawings=tuple(map(Markup, drawings)),
        key=_key(runs) if len(lines) > 1 else (),
        note=note if smooth and window > 1 else "",
    )


def _key(runs: Sequence[Contents]) -> tuple[tuple[Markup, str], ...]:
    """One line for all runs of one arm."""
    counts = Counter((run.style, run.key) for run in runs)
    return plot_key(
        (style, name if count == 1 else f"{name} ({plural(count, 'run')})")
        for (style, name), count in sorted(counts.items())
    )


def _pictures(run: str, images: Reconstructions) -> Pictures:
    origin = _STATISTICS.get(images.statistics, images.statistics)
    rows = (
        ("input", images.input, "the images as they were"),
        ("masked", images.masked, "what the encoder was given: the visible patches"),
        (
            f"reconstruction; brightness and contrast {origin}",
            images.reconstruction,
            "what the model made of the visible patches",
        ),
    )
    total, drawn = len(images.input), min(len(images.input), _MOST_PICTURES)
    sets = tuple(
        tuple(
            Picture(label, f"{words}, images {first + 1} to {last}", figures.image_row(array[first:last]))
            for label, array, words in rows
        )
        for first in range(0, drawn, _PICTURES_IN_A_ROW)
        for last in [min(first + _PICTURES_IN_A_ROW, drawn)]
    )
    caption = images.caption + ("" if drawn == total else f" The first {drawn} of {total} are shown.")
    return Pictures(run, caption.strip(), images.input.shape[1] < 128, sets)
