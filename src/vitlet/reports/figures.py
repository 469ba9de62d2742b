"""Figures from plain numbers: inline SVG that follows the page's light or dark theme, and PNG data URIs.

No outside text enters a figure: names are in the page's HTML next to it, so a figure holds only digits and vitlet's
own words.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vitlet.reports.canvas import GRID, INK, MUTED, ROUND, SERIES, STYLE, canvas, number, pen, plain_axes, to_svg
from vitlet.reports.numbers import significant

_POINTS = 400  # of a drawn curve: more than a screen resolves, and it bounds the page size
_STRIP, _AXIS, _DIFFERENCE = (320, 56), (320, 24), (360, 84)  # width and height in CSS pixels
_EDGE = 10.0  # margin beside a strip's scale, so that a dot at its end is not cut off


@dataclass(frozen=True)
class Curve:
    """One line: `y` over `x`; non-finite values (None included) leave a gap."""

    x: Sequence[float | None]
    y: Sequence[float | None]
    style: int = 0
    """Index of the colour and dash pattern, as `canvas.swatch` shows them."""


@dataclass(frozen=True)
class Scale:
    """The accuracy axis shared by all strips of one chart."""

    low: float
    high: float
    ticks: tuple[float, ...]
    chance: float | None = None
    """Chance level, drawn as a dashed line."""


@dataclass(frozen=True)
class Strip:
    """One row of a dot chart: individual values, their mean, and its interval (None if there is none)."""

    points: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    style: int = 0


def curves(
    lines: Sequence[Curve],
    *,
    name: str,
    size: tuple[int, int],
    x_label: str,
    y_label: str,
    percent: bool = False,
    smooth: bool = False,
) -> str:
    """Draw lines on common axes as SVG; "" if no value is finite.

    Args:
        lines: Curves, the first one on top.
        name: Unique on the page; letters, digits and hyphens.
        size: Width and height in CSS pixels.
        x_label: Label with its unit.
        y_label: Label with its unit; placed upright above the axis.
        percent: Whether values are shares, to be shown in per cent.
        smooth: Draw a running mean, with the individual values in a pale colour behind it.
    """
    arrays = [(_floats(line.x), _floats(line.y), line.style) for line in lines]
    drawn = [a for a in arrays if (np.isfinite(a[0]) & np.isfinite(a[1])).any()]
    if not drawn:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(size, left=46, right=14 if len(drawn) > 1 else 52, top=30, bottom=36)
        pen_width = 2.0 if len(drawn) <= 4 else 1.25
        for z, (x, y, style) in enumerate(reversed(drawn)):
            if smooth:
                _draw_pale(axes, x, y, style=style, z=2 + z)
            line = smoothed(y) if smooth else y
            _draw_curve(axes, x, line, style=style, width=pen_width, z=2 + len(drawn) + z)
            if len(drawn) == 1:
                _label_last(axes, x, line, percent=percent)
        plain_axes(axes, right=float(np.nanmax(np.concatenate([x for x, _, _ in drawn]))), percent=percent)
        width, height = size
        figure.text(0, 1 - 12 / height, y_label, color=INK, ha="left", va="baseline")
        figure.text(1 - (14 if len(drawn) > 1 else 52) / width, 4 / height, x_label, ha="right", va="baseline")
        return to_svg(figure, name)


def scale(values: Sequence[float], *, chance: float | None = None) -> Scale:
    """An axis that fits the shares `values` (and `chance`, if given) with a margin, ending on round numbers."""
    inside = [*values, *([] if chance is None else [chance])]
    low, high = min(inside), max(inside)
    room = max(0.05 * (high - low), 0.01)
    ticks = MaxNLocator(nbins=6, steps=ROUND).tick_values(max(low - room, 0), min(high + room, 1))
    return Scale(float(ticks[0]), float(ticks[-1]), tuple(float(round(t, 10)) for t in ticks), chance)


def strip(row: Strip, on: Scale, *, name: str) -> str:
    """Draw a row of a dot chart as SVG: single values as circles, above them the mean as a stroke in its interval."""
    colour = SERIES[row.style % len(SERIES)]
    middle = 0.2 if len(row.points) > 1 else 0.0
    with matplotlib.rc_context(STYLE):
        figure, axes = _strip_axes(_STRIP, on)
        for tick in on.ticks:
            axes.axvline(tick, color=GRID, linewidth=1)
        if on.chance is not None:
            axes.axvline(on.chance, color=MUTED, linewidth=1, dashes=(2, 2))
        if row.interval is not None:
            _interval(axes, row.interval, middle=middle, half=0.22, colour=colour)
        if len(row.points) > 1:
            dots = [-0.42] * len(row.points)
            axes.plot(row.points, dots, "o", markersize=6, mfc="none", mec=colour, mew=1.25, clip_on=False)
        axes.plot((row.mean, row.mean), (middle - 0.36, middle + 0.36), color=colour, linewidth=3, clip_on=False)
        return to_svg(figure, name)


def axis(on: Scale, *, name: str) -> str:
    """Draw the tick labels below a column of strips, in per cent."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _strip_axes(_AXIS, on)
        for tick in on.ticks:
            axes.plot((tick, tick), (0.8, 1), color=GRID, linewidth=1)
            axes.text(tick, -0.45, number(tick, percent=True), ha="center", va="center", clip_on=False)
        return to_svg(figure, name)


def difference(mean: float, interval: tuple[float, float] | None, *, name: str) -> str:
    """Draw a difference of shares, with its interval if there is one, next to a line at zero; in percentage points."""
    inside = (mean, 0.0, *(interval or ()))
    low, high = min(inside), max(inside)
    room = max(0.08 * (high - low), 0.005)
    ticks = MaxNLocator(nbins=5, steps=ROUND).tick_values(low - room, high + room)
    on = Scale(float(ticks[0]), float(ticks[-1]), tuple(map(float, ticks)))
    with matplotlib.rc_context(STYLE):
        figure, axes = _strip_axes(_DIFFERENCE, on)
        axes.set_ylim(-1.2, 1)
        for tick in on.ticks:
            axes.plot((tick, tick), (-0.5, 0.55), color=GRID, linewidth=1)
            sign = "+" if tick > 1e-9 else ""
            axes.text(tick, -0.95, sign + number(tick, percent=True), ha="center", va="center", clip_on=False)
        axes.plot((0, 0), (-0.6, 0.55), color=INK, linewidth=1.5)
        # The label goes on the side of zero with more room.
        side = "left" if on.high >= -on.low else "right"
        axes.text(0, 0.82, "no difference", color=INK, ha=side, va="center", clip_on=False)
        if interval is not None:
            _interval(axes, interval, middle=0.0, half=0.2, colour=SERIES[0])
        axes.plot((mean, mean), (-0.32, 0.32), color=SERIES[0], linewidth=3)
        return to_svg(figure, name)


def image_row(images: UInt8[np.ndarray, "n h w 3"], *, side: int = 128) -> str:
    """Join images in a row, 1/16 of a width apart, as a PNG data URI with transparent gaps.

    Args:
        images: sRGB.
        side: Longest side of one image in pixels; larger ones are reduced, smaller ones left alone.
    """
    height, width = images.shape[1:3]
    factor = min(1.0, side / max(height, width))
    tile = max(1, round(width * factor)), max(1, round(height * factor))
    gap = max(1, round(tile[0] / 16))
    row = Image.new("RGBA", (len(images) * (tile[0] + gap) - gap, tile[1]))
    for i, image in enumerate(images):
        row.paste(Image.fromarray(image).resize(tile, Image.Resampling.BOX), (i * (tile[0] + gap), 0))
    buffer = io.BytesIO()
    row.save(buffer, format="PNG", optimize=True)  # new pixels: none of the original file's metadata remains
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _interval(axes: Axes, interval: tuple[float, float], *, middle: float, half: float, colour: str) -> None:
    low, high = middle - half, middle + half
    axes.fill_between(interval, low, high, color=colour, alpha=0.22, linewidth=0, clip_on=False)
    for end in interval:
        axes.plot((end, end), (low, high), color=colour, linewidth=1.25, clip_on=False)


def _draw_pale(axes: Axes, x: np.ndarray, y: np.ndarray, *, style: int, z: int) -> None:
    """The individual values behind a running mean: a line, or their range if a screen could not resolve them."""
    colour = pen(style)["color"]
    if len(y) > _POINTS:
        low, high = _thinned(y, np.fmin), _thinned(y, np.fmax)
        axes.fill_between(_thinned(x, np.fmax), low, high, color=colour, alpha=0.16, linewidth=0, zorder=z)
    else:
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.75, zorder=z)


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, *, style: int, width: float, z: int) -> None:
    keep = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
    marker = "o" if len(x) <= 15 else ""
    axes.plot(x[keep], y[keep], linewidth=width, marker=marker, markersize=4.5, zorder=z, clip_on=False, **pen(style))


def smoothing_window(count: int) -> int:
    """Window of the running mean over a curve of `count` values: a twentieth, and odd."""
    return (count // 20 + 1) // 2 * 2 + 1 if count > 20 else 1


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred mean over `smoothing_window` values, fewer at the ends; gaps remain gaps and do not spread."""
    half = smoothing_window(len(values)) // 2
    finite = np.isfinite(values)
    ends = np.arange(len(values))
    low, high = np.maximum(ends - half, 0), np.minimum(ends + half + 1, len(values))
    sums, counts = (np.concatenate(([0.0], np.cumsum(column))) for column in (np.where(finite, values, 0.0), finite))
    means = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)
    return np.where(finite, means, np.nan)


def _thinned(values: np.ndarray, by: np.ufunc) -> np.ndarray:
    """At most `_POINTS` values, each the minimum or maximum (`by`) of its stretch."""
    stride = -(-len(values) // _POINTS)
    return by.reduceat(values, np.arange(0, len(values), stride))


def _label_last(axes: Axes, x: np.ndarray, y: np.ndarray, *, percent: bool) -> None:
    last = int(np.flatnonzero(np.isfinite(x) & np.isfinite(y))[-1])
    text = f"{100 * y[last]:.1f} %" if percent else significant(y[last])
    axes.annotate(
        text, (x[last], y[last]), xytext=(6, 0), textcoords="offset points", va="center",
        color=INK, annotation_clip=False,
    )  # fmt: skip


def _strip_axes(size: tuple[int, int], on: Scale) -> tuple[Figure, Axes]:
    figure, axes = canvas(size, left=_EDGE, right=_EDGE, top=0, bottom=0)
    axes.axis("off")
    axes.set(xlim=(on.low, on.high), ylim=(-1, 1))
    return figure, axes


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)
