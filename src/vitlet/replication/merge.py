"""A ledger file that grows: findings that these runs do not have stay as the file has them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitlet.disk import read_json
from vitlet.errors import UsageError
from vitlet.text import printable

_SAME = ("kind", "scale", "about", "sets", "seeds")
"""Fields in which two documents have to agree for their numbers to stand in one table."""


def earlier_findings(file: Path, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The findings that `file` has already; None if there is no such file.

    Args:
        file: Path of a document of `vitlet.replication.findings`, which need not exist.
        document: A document of the request whose findings are to be written there.

    Raises:
        UsageError: if the file is something else, or of another scale, number of seeds or images.
    """
    if not file.exists():
        return None
    found = read_json(file)
    different = [key for key in _SAME if not isinstance(found, dict) or found.get(key) != document[key]]
    if different:
        raise UsageError(
            f"{printable(file)} has other findings",
            why=f"They differ in {', '.join(different)}",
            fix="another file for --json, or remove this one",
        )
    return found


def merged(document: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """`document`, with the findings of `earlier` where it has none itself, or has them of fewer seeds.

    A table's cell, a figure and a claim are each taken whole: no difference is between runs of both documents. Not
    taken are claims whose rule has changed since, and numbers of runs that would be others today: a run's name ends
    with the hash of what determines it. A run that was made twice is listed twice.
    """
    if earlier is None:
        return dict(document)
    items = _by("name", earlier["items"])
    claims = _by("number", earlier["claims"])
    planned = {run["name"] for run in document["runs"]} | {*document["waiting"]}
    found = {
        **document,
        "items": [
            _item(item, items.pop(item["name"]), planned) if item["name"] in items else item
            for item in document["items"]
        ],
        "claims": [
            _claim(claim, claims[claim["number"]], planned) if claim["number"] in claims else claim
            for claim in document["claims"] or earlier["claims"]
        ],
    }
    found["items"] += items.values()
    needed = {*planned, *_names(found["items"]), *_names(found["claims"])}
    runs = {(run["name"], run["finished"]): run for run in earlier["runs"] if run["name"] in needed}
    runs |= {(run["name"], run["finished"]): run for run in document["runs"]}
    made = {name for name, _ in runs}
    return found | {"runs": [*runs.values()], "waiting": [name for name in document["waiting"] if name not in made]}


def _names(found: Any) -> Iterator[str]:
    """The names of all runs that any number below `found` lists."""
    if isinstance(found, dict):
        yield from found.get("runs", ())
    for below in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _names(below)


def _by(key: str, some: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {one[key]: one for one in some}


def _item(item: dict[str, Any], before: Mapping[str, Any], planned: set[str]) -> dict[str, Any]:
    if "drawing" in item:
        return dict(before) if _is_better(before.get("measured"), item["measured"], planned) else item
    if item["columns"] != before.get("columns"):
        return item
    rows = {row["title"]: row["cells"] for row in before["rows"]}
    return item | {
        "rows": [
            row | {"cells": [_cell(*pair, planned) for pair in zip(row["cells"], rows[row["title"]], strict=True)]}
            if row["title"] in rows else row
            for row in item["rows"]
        ]
    }  # fmt: skip


def _cell(cell: dict[str, Any] | None, before: Mapping[str, Any] | None, planned: set[str]) -> dict[str, Any] | None:
    if cell is None or before is None or not _is_better(before["measured"], cell["measured"], planned):
        return cell
    return cell | {"measured": before["measured"], "not_run": before["not_run"]}


def _is_better(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, planned: set[str]) -> bool:
    """Whether an earlier number is of more seeds, and of runs that are the same today."""
    if before is None or not planned.issuperset(before["runs"]):
        return False
    return now is None or len(before["seeds"]) > len(now["seeds"])


def _claim(claim: dict[str, Any], before: Mapping[str, Any], planned: set[str]) -> dict[str, Any]:
    if claim["answer"] != "not run" or before["answer"] == "not run":
        return claim
    if claim["parts"] and not planned.issuperset(_names(before["parts"])):
        return claim
    if claim["parts"] and _rules(claim["parts"]) != _rules(before["parts"]):
        return claim
    beside = before["beside"] if _rules(before["beside"]) == _rules(claim["beside"]) else claim["beside"]
    return claim | {key: before[key] for key in ("answer", "why", "parts")} | {"beside": beside}


def _rules(parts: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return [(part["title"], part["unit"], part["margin"]) for part in parts]
