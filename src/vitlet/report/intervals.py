"""Accuracies with intervals over something that was varied: one line an arm, level lines for what does not vary.

By the rules of `vitlet.report.figures`: no text from outside enters a figure, names stand in the page's key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from vitlet.report.canvas import INK, ROUND, SERIES, STYLE, Shares, canvas, pen, plain_axes, to_svg

_DODGE = 0.014
"""Sideways distance of neighbouring arms, as a share of the axis: intervals would cover each other."""


@dataclass(frozen=True)
class Measured:
    """Scores of one arm at one place: single values, their mean, and its interval where there is one."""

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """One arm over all places; `x` and `found` are equally long."""

    x: tuple[float, ...]
    found: tuple[Measured, ...]
    style: int


@dataclass(frozen=True)
class Level:
    """An arm that does not depend on the place: a line across, with its interval as a band."""

    found: Measured
    style: int


def interval_curves(
    series: Sequence[Series],
    *,
    name: str,
    x_label: str,
    scale: Literal["log", "linear", "names"],
    ticks: Sequence[tuple[float, str]],
    levels: Sequence[Level] = (),
    size: tuple[int, int] = (720, 340),
) -> str:
    """Means joined by lines (not between `names`), bars for intervals, hollow dots for single seeds, as SVG.

    Args:
        series: At least one with a place.
        name: Unique on the page.
        x_label: Of what was varied.
        scale: How places lie on the axis.
        ticks: Place and digits below it; those that would touch are left out.
        levels: Drawn behind.
        size: Width and height in CSS pixels.
    """

    def place(x: float) -> float:
        return math.log10(x) if scale == "log" else x

    places = [place(x) for each in series for x in each.x]
    low, high = min(places), max(places)
    width = (high - low) or 1.0
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(size, left=46, right=14, top=30, bottom=42)
        for level in levels:
            _draw_level(axes, level)
        for i, each in enumerate(series):
            shift = (i - (len(series) - 1) / 2) * _DODGE * width
            _draw_series(axes, [place(x) + shift for x in each.x], each, joined=scale != "names")
        plain_axes(axes, right=1, percent=True)
        axes.set_xlim(low - 0.06 * width, high + 0.06 * width)
        axes.set_xticks(*_apart([(place(x), text) for x, text in ticks], span=1.12 * width, pixels=size[0] - 60))
        axes.yaxis.set_major_locator(Shares(nbins=6, steps=ROUND))
        figure.text(0, 1 - 12 / size[1], "top-1 accuracy, %", color=INK, ha="left", va="baseline")
        figure.text(1 - 14 / size[0], 4 / size[1], x_label, ha="right", va="baseline")
        return to_svg(figure, name)


def _apart(ticks: list[tuple[float, str]], *, span: float, pixels: float) -> tuple[list[float], list[str]]:
    """Ticks from the left, without those whose digits would touch the one before."""
    kept: list[tuple[float, str]] = []
    for place, text in sorted(ticks):
        room = 4.0 * (len(text) + len(kept[-1][1])) + 6 if kept else 0.0
        if not kept or (place - kept[-1][0]) / span * pixels >= room:
            kept.append((place, text))
    return [place for place, _ in kept], [text for _, text in kept]


def _draw_series(axes: Axes, places: list[float], each: Series, *, joined: bool) -> None:
    style, colour = pen(each.style), SERIES[each.style % len(SERIES)]
    means = np.array([found.mean for found in each.found])
    if joined:
        axes.plot(places, means, linewidth=2, zorder=3, clip_on=False, **style)
    for at, found in zip(places, each.found, strict=True):
        if found.interval is not None:
            axes.plot((at, at), found.interval, color=colour, linewidth=1.5, zorder=4, clip_on=False)
            axes.plot((at, at), found.interval, "_", color=colour, markersize=7, mew=1.5, zorder=4, clip_on=False)
        if len(found.values) > 1:
            dots = [at] * len(found.values)
            axes.plot(dots, found.values, "o", markersize=4, mfc="none", mec=colour, mew=0.9, zorder=5, clip_on=False)
    axes.plot(places, means, "o", markersize=6, color=colour, mew=0, zorder=6, clip_on=False)


def _draw_level(axes: Axes, level: Level) -> None:
    colour = SERIES[level.style % len(SERIES)]
    if level.found.interval is not None:
        axes.axhspan(*level.found.interval, color=colour, alpha=0.14, linewidth=0, zorder=1)
    axes.axhline(level.found.mean, color=colour, linewidth=1.5, dashes=(5, 3), zorder=2)
