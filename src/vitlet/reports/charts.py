"""Charts of the analyses: heat maps and box plots, in the style and by the rules of `vitlet.reports.figures`.

A heat map's scale fades one colour from absent to full, so it reads in both themes, in greyscale and in print.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from vitlet.reports.canvas import GRID, INK, MUTED, ROUND, SERIES, STYLE, canvas, number, to_svg

_HEAT_MAP, _BOXES = (300, 300), (350, 230)  # width and height in CSS pixels
_BAR = 10.0
"""Width of the colour scale beside a heat map."""
_SHADES = 32


def heat_map(values: Float[np.ndarray, "r c"], *, name: str, x_label: str, y_label: str) -> str:
    """Draw shares 0 … 1 as shades, row 0 at the bottom; values out of range are clipped.

    Args:
        values: Values; non-finite ones are crossed out.
        name: Unique on the page.
        x_label: Label of the columns, which are numbered from 0.
        y_label: Label of the rows, which are numbered from 0; placed upright above the axis.
    """
    rows, columns = values.shape
    width, height = _HEAT_MAP
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(_HEAT_MAP, left=26, right=52, top=30, bottom=40)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
        for r in range(rows):
            for c in range(columns):
                _cell(axes, (c, r), float(values[r, c]))
        _bare(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 3, 5, 10], integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 3, 5, 10], integer=True))
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
        bar = figure.add_axes((1 - 40 / width, 40 / height, _BAR / width, 1 - 70 / height), facecolor="none")
        for k in range(_SHADES):
            bar.add_patch(Rectangle((0, k / _SHADES), 1, 1 / _SHADES, color=SERIES[0], alpha=(k + 0.5) / _SHADES, lw=0))
        _bare(bar)
        bar.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[0, 0.5, 1], yticklabels=["0", "0.5", "1"])
        bar.yaxis.tick_right()
        bar.tick_params(axis="y", pad=3)
        figure.text(0, 1 - 12 / height, y_label, color=INK, ha="left", va="baseline")
        figure.text(1 - 52 / width, 6 / height, x_label, color=INK, ha="right", va="baseline")
        # Antialiasing would show hairlines between neighbouring shades.
        return to_svg(figure, name).replace("<svg ", '<svg shape-rendering="crispEdges" ', 1)


def boxes(groups: Sequence[Float[np.ndarray, "_"]], *, name: str, high: float, x_label: str, y_label: str) -> str:
    """Draw one box per group: quartiles, a line at the median, whiskers to the extremes, and each value as a dot.

    Args:
        groups: Values of each group; groups are numbered from 1.
        name: Unique on the page.
        high: Upper end of the scale, which starts at 0; use the same for charts that are compared.
        x_label: Label of the groups.
        y_label: Label with its unit.
    """
    width, height = _BOXES
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(_BOXES, left=40, right=8, top=30, bottom=36)
        axes.grid(axis="y", color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        for place, values in enumerate(groups, 1):
            _box(axes, place, values)
        _bare(axes)
        axes.spines["bottom"].set(visible=True, color=MUTED)
        axes.set(xlim=(0.4, len(groups) + 0.6), ylim=(0, high))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 3, 5, 10], integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=ROUND))
        axes.yaxis.set_major_formatter(lambda v, _: number(v))
        axes.set(xlim=(0.4, len(groups) + 0.6), ylim=(0, high))
        figure.text(0, 1 - 12 / height, y_label, color=INK, ha="left", va="baseline")
        figure.text(1 - 8 / width, 4 / height, x_label, ha="right", va="baseline")
        return to_svg(figure, name)


def _cell(axes: Axes, place: tuple[int, int], value: float) -> None:
    x, y = place
    if np.isfinite(value):
        shade = float(np.clip(value, 0, 1))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=SERIES[0], alpha=shade, linewidth=0))
    else:
        axes.plot((x - 0.3, x + 0.3), (y - 0.3, y + 0.3), color=MUTED, linewidth=1)


def _box(axes: Axes, place: int, values: Float[np.ndarray, "_"]) -> None:
    low, first, middle, third, top = np.percentile(values, (0, 25, 50, 75, 100))
    colour = SERIES[0]
    for ends in ((low, first), (third, top)):
        axes.plot((place, place), ends, color=colour, linewidth=1)
    box = Rectangle((place - 0.3, first), 0.6, third - first, facecolor=colour, alpha=0.22, linewidth=0)
    axes.add_patch(box)
    axes.plot([place] * len(values), values, "o", markersize=2.5, mfc=colour, mew=0, alpha=0.6, clip_on=False)
    axes.plot((place - 0.3, place + 0.3), (middle, middle), color=colour, linewidth=2)


def _bare(axes: Axes) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, pad=4)
