"""What pages consist of: figures with their keys, tables, rows of pictures, and the templates that lay them out."""

import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitlet.reports.canvas import swatch
from vitlet.text import printable


@dataclass(frozen=True)
class Plot:
    """A figure with its title, the finding in words for those who cannot see it, and a key."""

    title: str
    finding: str
    drawings: tuple[Markup, ...]
    """One drawing, or a wide and a narrow one, of which the page shows the one that fits."""
    key: tuple[tuple[Markup, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A row of images, joined: a label, alternative text, and the data URI."""

    label: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Pictures:
    """One run's pictures in sets of a few columns."""

    run: str
    caption: str
    pixelated: bool
    sets: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True)
class Table:
    """A caption, column names, and rows whose first cell names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: Container[int] = ()
    """Columns of numbers, which are aligned to the right."""
    left_out: int = 0
    """Number of rows that are not shown."""
    marked: Collection[int] = ()
    """Rows that stand out."""


def plot_key(lines: Iterable[tuple[int, str]]) -> tuple[tuple[Markup, str], ...]:
    """The key of a plot from the style and the name of each line."""
    return tuple((Markup(swatch(style)), name) for style, name in lines)


def template(name: str) -> Any:
    """Load a page's template; everything it shows is escaped and printable."""
    environment = Environment(
        loader=PackageLoader("vitlet.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _printable(value: Any) -> Any:
    """Make every expression of the template printable before it is escaped; vitlet's own markup passes unchanged."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def standalone(drawing: str) -> str:
    """Turn an inline drawing into a file of its own that follows the viewer's theme."""
    css = resources.files("vitlet.reports").joinpath("templates/report.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in css.split(":root")[1:3])
    rules = [_variables(light), f"@media (prefers-color-scheme: dark) {{ {_variables(dark)} }}"]
    style = f"<style>{' '.join(rules)} svg {{ background: var(--paper); font-family: sans-serif; }}</style>"
    opening, rest = drawing.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def _variables(colours: Mapping[str, str]) -> str:
    return f":root {{ {' '.join(f'--{name}: {colour};' for name, colour in colours.items())} }}"
