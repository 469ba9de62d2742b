"""Accuracies with intervals as a function of a varied setting: one line per arm, level lines for what is constant.

As in `vitlet.reports.figures`, no outside text enters a figure; names are in the page's key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from vitlet.reports.canvas import INK, ROUND, SERIES, STYLE, Shares, canvas, pen, plain_axes, to_svg

_DODGE = 0.014
"""Horizontal offset between arms, as a share of the axis, so that intervals do not overlap."""


@dataclass(frozen=True)
class Measured:
    """Scores of one arm at one point: individual values, their mean, and its interval if there is one."""

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """One arm over all points; `x` and `scores` have the same length."""

    x: tuple[float, ...]
    scores: tuple[Measured, ...]
    style: int


@dataclass(frozen=True)
class Level:
    """An arm that does not depend on the setting: a horizontal line, with its interval as a band."""

    score: Measured
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
    """Draw means joined by lines (not between `names`), bars for intervals and hollow dots for single seeds, as SVG.

    Args:
        series: At least one, with at least one point.
        name: Unique on the page.
        x_label: Label of the varied setting.
        scale: Scale of the x axis.
        ticks: Position and label of each tick; those that would touch are left out.
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
    """Ticks from the left, skipping those whose labels would touch the previous one."""
    kept: list[tuple[float, str]] = []
    for place, text in sorted(ticks):
        room = 4.0 * (len(text) + len(kept[-1][1])) + 6 if kept else 0.0
        if not kept or (place - kept[-1][0]) / span * pixels >= room:
            kept.append((place, text))
    return [place for place, _ in kept], [text for _, text in kept]


def _draw_series(axes: Axes, places: list[float], each: Series, *, joined: bool) -> None:
    style, colour = pen(each.style), SERIES[each.style % len(SERIES)]
    means = np.array([score.mean for score in each.scores])
    if joined:
        axes.plot(places, means, linewidth=2, zorder=3, clip_on=False, **style)
    for at, score in zip(places, each.scores, strict=True):
        if score.interval is not None:
            axes.plot((at, at), score.interval, color=colour, linewidth=1.5, zorder=4, clip_on=False)
            axes.plot((at, at), score.interval, "_", color=colour, markersize=7, mew=1.5, zorder=4, clip_on=False)
        if len(score.values) > 1:
            dots = [at] * len(score.values)
            axes.plot(dots, score.values, "o", markersize=4, mfc="none", mec=colour, mew=0.9, zorder=5, clip_on=False)
    axes.plot(places, means, "o", markersize=6, color=colour, mew=0, zorder=6, clip_on=False)


def _draw_level(axes: Axes, level: Level) -> None:
    colour = SERIES[level.style % len(SERIES)]
    if level.score.interval is not None:
        axes.axhspan(*level.score.interval, color=colour, alpha=0.14, linewidth=0, zorder=1)
    axes.axhline(level.score.mean, color=colour, linewidth=1.5, dashes=(5, 3), zorder=2)
