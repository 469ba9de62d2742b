"""The sections on provenance: data, recipes, commands, machines, every measured value."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vitlet.config import flatten
from vitlet.environment import Environment
from vitlet.reports import tables
from vitlet.reports.contents import Contents
from vitlet.reports.elements import Table
from vitlet.reports.numbers import duration, percent
from vitlet.text import plural, shareable

_MOST_ROWS, _EXAMPLES = 50, 5
_NONE = "–"
_ABOUT = {
    "name": "name", "num_train": "training images", "num_labelled": "of them with a label used",
    "num_test": "test images", "fingerprint": "fingerprint",
}  # fmt: skip
"""Keys of a comparison's data, and their titles."""
_COUNTS = {
    "num_images": "images found", "num_good": "usable", "num_bad": "unusable", "num_warnings": "with a remark",
}  # fmt: skip
_COPIES = {
    "duplicates": "equal files", "near_duplicates": "look alike", "leaks": "test images also trained on",
    "near_leaks": "test images that look like one trained on",
}  # fmt: skip
_ANNOTATIONS = {
    "num_annotations": "annotations", "num_left_out": "annotations left out",
    "num_images_without": "images without annotations",
}  # fmt: skip
_UNLABELLED = "unlabelled"


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
    facts = tuple((title, _text(about[key])) for key, title in _ABOUT.items() if about.get(key) is not None)
    classes = tuple(map(str, about.get("classes") or ()))
    checks: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        if run.check:
            checks.setdefault(json.dumps(run.check, sort_keys=True), (run.check, []))[1].append(run.name)
    sets = []
    for check, names in checks.values():
        is_compared = facts and (len(checks) == 1 or check["name"] == about.get("name"))
        compared = (facts, classes) if is_compared else ((), ())
        sets.append(Data(f"{check['name']}: {', '.join(names)}", *compared, _check_facts(check), _check_tables(check)))
    if facts and not any(data.facts for data in sets):
        sets.insert(0, Data(_text(about.get("name")), facts, classes, (), ()))
    return tuple(sets)


def _check_facts(check: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The single numbers of `Verdicts.to_json` and, for detection, of `Annotations.to_json`."""
    annotations = check.get("annotations")
    return (
        ("name", check["name"]),
        *((title, _text(check[key])) for key, title in _COUNTS.items()),
        *((f"{side}, px (min · median · max)", " · ".join(map(_text, check[side]))) for side in ("heights", "widths")),
        *((title, _text(check[kind]["count"])) for kind, title in _COPIES.items()),
        *((title, _text(annotations[key])) for key, title in _ANNOTATIONS.items() if annotations),
    )


def _check_tables(check: Mapping[str, Any]) -> tuple[Table, ...]:
    """The lists of a check that are not empty."""
    splits = check["balance"]
    names = dict.fromkeys(name for counts in splits.values() for name in counts)
    tables = [
        _cut("how the data was read", ("note",), [(note,) for note in check["notes"]]),
        _cut("unusable images", ("image", "reason"), check["bad"], total=check["num_bad"]),
        _cut("remarks of the decoder", ("image", "remark"), check["warnings"], total=check["num_warnings"]),
        _counts("stored as", ("format", "images"), check["modes"]),
        *(
            _cut(
                f"{title}, examples", ("image", "matches"), check[kind]["examples"][:_EXAMPLES],
                total=check[kind]["count"],
            )
            for kind, title in _COPIES.items()
        ),
        _cut(
            "images of each class", ("class", *splits),
            [(name or _UNLABELLED, *(_text(counts.get(name)) for counts in splits.values())) for name in names],
            numeric=range(1, len(splits) + 1),
        ),
        _cut("classes without a usable image", ("class",), [(name,) for name in check["lost_classes"]]),
    ]  # fmt: skip
    if annotations := check.get("annotations"):
        faults = [
            (fault["kind"], _text(fault["count"]), fault["rule"], ", ".join(fault["examples"][:_EXAMPLES]))
            for fault in annotations["faults"]
        ]
        tables += [
            _counts("annotations of each class", ("class", "annotations"), annotations["classes"]),
            _cut("faults of annotations", ("fault", "number", "rule", "such as"), faults, numeric=(1,)),
        ]
    return tuple(table for table in tables if table.rows)


def _counts(caption: str, columns: tuple[str, str], counts: Mapping[str, int]) -> Table:
    return _cut(caption, columns, [(name, _text(count)) for name, count in counts.items()], numeric=(1,))


def _cut(
    caption: str,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[str]],
    *,
    total: int | None = None,
    numeric: Container[int] = (),
) -> Table:
    """A table of the first rows of `total`, which is by default the number of `rows`."""
    first = tuple(tuple(row) for row in rows[:_MOST_ROWS])
    return Table(caption, columns, first, numeric, left_out=(len(rows) if total is None else total) - len(first))


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
    return Table("Every measured number", columns, rows, numeric=(2, 3, 5, 9)) if rows else None


def made(runs: Sequence[Contents], comparison: dict[str, Any] | None) -> Made:
    """Commands, runs, recipes and machines; the recipe is the only file that every run has."""
    commands = [*(comparison or {}).get("commands", ())]
    commands += [run.environment.command for run in runs if run.environment.command]
    machines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        if run.environment.is_there:
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
        made = run.environment
        rows.append(
            (
                run.name,
                str(run.recipe.get("name", _NONE)),
                run.recipe_hash,
                _text(run.seed),
                _text(last.get("step")),
                _text(last.get("epoch")),
                f"{median(speeds):,.0f}" if speeds else _NONE,
                duration(made.wall_seconds) if made.is_finished else _NONE,
                duration(made.cpu_seconds) if made.is_finished else _NONE,
            )
        )
    caption = "Runs; images/s is the median over the logged steps"
    return Table(caption, columns, tuple(rows), numeric=range(3, len(columns)))


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


def _machine(environment: Environment) -> tuple[tuple[str, str], ...]:
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    facts = [(key, _text(value)) for key, value in environment.machine.items()]
    return (*facts, ("packages", packages or _NONE))


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
