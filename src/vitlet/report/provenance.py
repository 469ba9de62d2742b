"""The sections on provenance: data, recipes, commands, machines, every measured value."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vitlet.config import flatten
from vitlet.report import tables
from vitlet.report.contents import Contents
from vitlet.report.numbers import duration, percent
from vitlet.text import plural, shareable

_MOST_ROWS, _EXAMPLES = 50, 5
# Names used by `vitlet check` that need more than replacing their underscores.
_TITLES = {
    "num_images": "images found", "num_good": "usable", "num_bad": "unusable", "num_warnings": "with a remark",
    "bad": "unusable images", "warnings": "remarks of the decoder", "modes": "stored as",
    "heights": "heights, px (min · median · max)", "widths": "widths, px (min · median · max)",
    "duplicates": "equal files", "near_duplicates": "look alike", "leaks": "test images also trained on",
    "near_leaks": "test images that look like one trained on", "balance": "images of each class",
    "lost_classes": "classes without a usable image", "notes": "how the data was read",
}  # fmt: skip
_NONE = "–"
_NUMBER = re.compile(r"–|[+−-]?[\d.,]+(e[+-]?\d+)?(\s%)?|\d+\s(h|min|s)(\s\d+\s(min|s))?")


@dataclass(frozen=True)
class Table:
    """A caption, column names, and rows whose first cell names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0
    marked: frozenset[int] = frozenset()
    """Rows in which the columns differ."""

    @property
    def numeric(self) -> list[bool]:
        """Per column, whether all its cells are numbers, to be right-aligned; False for the first."""
        _, *others = zip(*self.rows, strict=True)
        return [False, *(all(_NUMBER.fullmatch(cell) for cell in cells) for cells in others)]


@dataclass(frozen=True)
class Data:
    """The images of one data set, and what a check of them found."""

    title: str
    """The name of the data set, and the runs on it."""
    facts: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    checked: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Made:
    """What was run, and what is needed to run it again."""

    commands: tuple[str, ...]
    runs: Table
    recipes: Table
    machines: tuple[tuple[tuple[str, str], ...], ...]


def data(runs: Sequence[Contents], comparison: dict[str, Any] | None) -> tuple[Data, ...]:
    """Return the check of each data set, and the comparison's description of its own; empty if there are neither."""
    about = (comparison or {}).get("data") or {}
    titles = {
        "name": "name", "num_train": "training images", "num_labelled": "of them with a label used",
        "num_test": "test images", "fingerprint": "fingerprint",
    }  # fmt: skip
    facts = tuple((title, _text(about[key])) for key, title in titles.items() if about.get(key) is not None)
    classes = tuple(map(str, about.get("classes") or ()))
    checks: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        if run.check:
            checks.setdefault(json.dumps(run.check, sort_keys=True), (run.check, []))[1].append(run.name)
    found = []
    for check, names in checks.values():
        is_about = facts and (len(checks) == 1 or check.get("name") == about.get("name"))
        checked: list[tuple[str, str]] = []
        tables_: list[Table] = []
        _sort_facts(check, checked, tables_)
        title = f"{check.get('name', _NONE)}: {', '.join(names)}"
        told = (facts, classes) if is_about else ((), ())
        found.append(Data(title, *told, tuple(checked), tuple(tables_)))
    if facts and not any(data.facts for data in found):
        found.insert(0, Data(_text(about.get("name")), facts, classes, (), ()))
    return tuple(found)


def results(runs: Sequence[Contents]) -> Table | None:
    """Every result file of every run, one row each."""
    columns = ("run", "metric", "value", "n", "split", "seed", "protocol", "data", "recipe", "wall time")
    rows = tuple(
        (
            run.name,
            tables.metric_title(result["metric"]),
            percent(result["value"]) if tables.is_share(result["metric"], result["value"])
            else _text(result["value"]),
            *(_text(result.get(key)) for key in ("n", "split", "seed", "protocol")),
            " ".join(str(v) for v in ((result.get("data") or {}).get(k) for k in ("name", "fingerprint")) if v),
            _text(result.get("recipe")),
            duration(result["wall_seconds"]) if result.get("wall_seconds") is not None else _NONE,
        )
        for run in runs
        for result in run.results
    )  # fmt: skip
    return Table("Every measured number", columns, rows) if rows else None


def made(runs: Sequence[Contents], comparison: dict[str, Any] | None) -> Made:
    """Commands, runs, recipes and machines; the recipe is the only file that every run has."""
    commands = [*(comparison or {}).get("commands", ())]
    commands += [run.environment["command"] for run in runs if run.environment.get("command")]
    machines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        if run.environment:
            machines.setdefault(_machine(run.environment), []).append(run.name)
    named = tuple(
        (*facts, ("runs", ", ".join(names))) if len(machines) > 1 else facts for facts, names in machines.items()
    )
    return Made(
        tuple(dict.fromkeys(shareable(command) for command in commands)),
        _runs_table(runs),
        _recipes_table(runs),
        named,
    )


def _runs_table(runs: Sequence[Contents]) -> Table:
    columns = ("run", "recipe", "recipe hash", "seed", "steps", "epochs", "images/s", "wall", "CPU")
    rows = []
    for run in runs:
        last = run.metrics[-1] if run.metrics else {}
        speeds = [row["images_per_second"] for row in run.metrics if row.get("images_per_second") is not None]
        wall, cpu = (run.environment.get(f"{kind}_seconds") for kind in ("wall", "cpu"))
        rows.append(
            (
                run.name,
                str(run.recipe.get("name", _NONE)),
                run.recipe_hash,
                _text(run.seed),
                _text(last.get("step")),
                _text(last.get("epoch")),
                f"{median(speeds):,.0f}" if speeds else _NONE,
                duration(wall) if wall is not None else _NONE,
                duration(cpu) if cpu is not None else _NONE,
            )
        )
    return Table("Runs; images/s is the median over the logged steps", columns, tuple(rows))


def _recipes_table(runs: Sequence[Contents]) -> Table:
    """One column per recipe, ignoring the seed; rows in which they differ are marked."""
    columns: dict[str, tuple[dict[str, str], list[Contents]]] = {}
    for run in runs:
        values = {key: text for key, text in flatten(run.recipe).items() if key != "budget.seed"}
        columns.setdefault(json.dumps(values, sort_keys=True), (values, []))[1].append(run)
    recipes = [values for values, _ in columns.values()]
    keys = list(dict.fromkeys(key for values in recipes for key in values))
    rows = tuple((key, *(values.get(key, _NONE) for values in recipes)) for key in keys)
    marked = frozenset(i for i, row in enumerate(rows) if len(set(row[1:])) > 1)
    heads = tuple(_recipe_head(members) for _, members in columns.values())
    caption = "Every effective value but the seed" + ("; rows that differ are bold" if marked else "")
    return Table(caption, ("key", *heads), rows, marked=marked)


def _recipe_head(runs: Sequence[Contents]) -> str:
    others = f" and {plural(len(runs) - 1, 'more run')}" if len(runs) > 1 else ""
    return f"{runs[0].recipe.get('name', '')} ({runs[0].name}{others})"


def _machine(environment: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    packages = ", ".join(f"{name} {version}" for name, version in (environment.get("packages") or {}).items())
    facts = [(key, _text(environment.get(key))) for key in ("processor", "cores", "platform", "python")]
    return (*facts, ("packages", packages or _NONE))


def _sort_facts(value: dict[str, Any], facts: list[tuple[str, str]], found: list[Table], prefix: str = "") -> None:
    """Split a free-form dict into single facts and tables, leaving out what is empty."""
    for key, inner in value.items():
        title = prefix + (_TITLES.get(key) or str(key).replace("_", " "))
        if inner in ({}, []):
            continue
        if isinstance(inner, dict) and inner.keys() == {"count", "examples"}:
            facts.append((title, _text(inner["count"])))
            if inner["examples"]:
                columns, rows = _list_rows(inner["examples"][:_EXAMPLES], second="matches")
                found.append(Table(f"{title}, examples", columns, tuple(rows), inner["count"] - len(rows)))
        elif isinstance(inner, dict) and all(isinstance(v, dict) for v in inner.values()):
            names = dict.fromkeys(name for column in inner.values() for name in column)
            rows = [(name or "unlabelled", *(_text(column.get(name)) for column in inner.values())) for name in names]
            found.append(_cut(title, ("name", *map(str, inner)), rows))
        elif isinstance(inner, dict) and any(isinstance(v, dict | list) for v in inner.values()):
            _sort_facts(inner, facts, found, prefix=f"{title}, ")
        elif isinstance(inner, dict):
            rows = [(str(k) or "unlabelled", _text(v)) for k, v in inner.items()]
            found.append(_cut(title, ("name", "value"), rows))
        elif isinstance(inner, list) and not all(isinstance(item, int | float) for item in inner):
            found.append(_cut(title, *_list_rows(inner)))
        else:
            facts.append((title, " · ".join(map(_text, inner)) if isinstance(inner, list) else _text(inner)))


def _list_rows(items: list[Any], *, second: str = "remark") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    if all(isinstance(item, dict) and item for item in items):
        keys = list(dict.fromkeys(key for item in items for key in item))
        return tuple(map(str, keys)), [tuple(_text(item.get(key)) for key in keys) for item in items]
    rows = [tuple(map(_text, item)) if isinstance(item, list) else (_text(item),) for item in items]
    width = max(map(len, rows))
    heads = ("entry", *([second] if width == 2 else map(str, range(2, width + 1))))
    return heads, [(*row, *[""] * (width - len(row))) for row in rows]


def _cut(caption: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    return Table(caption, columns, tuple(rows[:_MOST_ROWS]), left_out=max(0, len(rows) - _MOST_ROWS))


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
