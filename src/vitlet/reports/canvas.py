"""The common canvas of all figures: colours that follow the page, uncluttered axes, reproducible SVG.

matplotlib gets placeholder colours that are replaced by CSS variables of the page; text stays text. Equal numbers give
equal bytes: no date, no global state, and ids salted with the figure's name, which also keeps them distinct if one
page holds many figures.
"""

import io
import re
from typing import Any, final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitlet.text import true_minus

# Placeholder colour → the page's CSS variable. Any six distinct digits would do.
INK, MUTED, GRID = "#0a0001", "#0a0002", "#0a0003"
SERIES = tuple(f"#0b000{i}" for i in range(1, 7))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)
}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2.5), (1.5, 1.5), (7, 2, 1.5, 2))

ROUND = [1, 2, 2.5, 5, 10]  # steps between ticks
_FONT = 12.0

# One CSS pixel is one point at 72 dpi, so every length below is in CSS pixels.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": _FONT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": MUTED,
    "axes.unicode_minus": True,
}


def canvas(size: tuple[int, int], *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Create a figure of `size` CSS pixels with one pair of axes and margins in CSS pixels."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return figure, figure.add_axes(box, facecolor="none")


@final
class Shares(MaxNLocator):
    """Ticks from 0 to 1 only: the space above a curve that touches 100 % means nothing."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """The base class's ticks between 0 and 1."""
        return [float(tick) for tick in super().tick_values(vmin, vmax) if -1e-9 < tick < 1 + 1e-9]


def plain_axes(axes: Axes, *, right: float, percent: bool) -> None:
    """Only a scale below and horizontal grid lines; x from 0 to `right`, y in per cent if it holds shares."""
    axes.set_xlim(0, right if right > 0 else 1)
    axes.margins(y=0.08)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    axes.tick_params(axis="x", length=4, pad=4)
    room = round(72 * axes.bbox.width / axes.figure.dpi)  # CSS pixels
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(6, room // 50), steps=ROUND, integer=right >= 6))
    axes.yaxis.set_major_locator((Shares if percent else MaxNLocator)(nbins=5, steps=ROUND))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v, percent=True)))


def pen(style: int) -> dict[str, Any]:
    """Colour and dashes of a line; the first twelve combinations are all distinct."""
    dashes = _DASHES[(style + style // len(SERIES)) % len(_DASHES)]
    return {"color": SERIES[style % len(SERIES)]} | ({"dashes": dashes} if dashes else {})


def swatch(style: int) -> str:
    """Draw the line that a key shows for `style`. By hand: a page has many, and matplotlib takes 30 ms for each."""
    line, width = pen(style), 2.5
    dashes = ",".join(f"{width * length:g}" for length in line.get("dashes", ())) or "none"
    return (
        '<svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true" focusable="false">'
        f'<path d="M 1 6 L 27 6" style="fill: none; stroke-dasharray: {dashes}; '
        f'stroke: {_VARIABLES[line["color"]]}; stroke-width: {width}"/></svg>'
    )


def number(value: float, *, percent: bool = False) -> str:
    """Format with four significant digits and a true minus sign."""
    return true_minus(f"{100 * value if percent else value:.4g}")


def to_svg(figure: Figure, name: str) -> str:
    """Convert to an SVG element for embedding in HTML; hidden from screen readers, which get its description."""
    assert re.fullmatch(r"[a-z0-9-]+", name), name
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    width, height = (round(72 * float(inches)) for inches in figure.get_size_inches())
    text = buffer.getvalue()
    body = text[text.index("</defs>") + len("</defs>") :]  # the opening and a style that would reach the whole page
    body = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", body)  # groups' ids, the same in every figure
    body = re.sub(r'((?: id="|"#|\(#))([mp][0-9a-f]{10})', rf"\1{name}-\2", body)
    body = re.sub(r" *font-family: [^;\"]*;?", "", body).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true" focusable="false">{body}'
    )
