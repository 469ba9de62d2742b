"""A ledger file that grows: findings that these runs do not have stay as the file has them."""

from collections.abc import Mapping
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
        file: Path of a document of `vitlet.reproduce.findings`, which need not exist.
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
    """`document`, with the findings of `earlier` where it has none itself.

    A table's cell, a figure and a claim's part are each taken whole: no difference is between runs of both documents.
    A part whose rule has changed since is not taken.
    """
    if earlier is None:
        return dict(document)
    items = _by("name", earlier["items"])
    claims = _by("number", earlier["claims"])
    found = {
        **document,
        "items": [
            _item(item, items.pop(item["name"])) if item["name"] in items else item for item in document["items"]
        ],
        "claims": [
            _claim(claim, claims[claim["number"]]) if claim["number"] in claims else claim
            for claim in document["claims"] or earlier["claims"]
        ],
    }
    found["items"] += items.values()
    runs = _by("name", earlier["runs"]) | _by("name", document["runs"])
    return found | {"runs": [*runs.values()], "waiting": [name for name in document["waiting"] if name not in runs]}


def _by(key: str, some: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {one[key]: one for one in some}


def _item(item: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    if "drawing" in item:
        return dict(before) if item["measured"] is None and before.get("measured") else item
    if item["columns"] != before.get("columns"):
        return item
    rows = {row["title"]: row["cells"] for row in before["rows"]}
    return item | {
        "rows": [
            row | {"cells": [_cell(*pair) for pair in zip(row["cells"], rows[row["title"]], strict=True)]}
            if row["title"] in rows else row
            for row in item["rows"]
        ]
    }  # fmt: skip


def _cell(cell: dict[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if cell is None or before is None or cell["measured"] or not before["measured"]:
        return cell
    return cell | {"measured": before["measured"], "not_run": before["not_run"]}


def _claim(claim: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    if claim["answer"] != "not run" or before["answer"] == "not run":
        return claim
    if claim["parts"] and _rules(claim["parts"]) != _rules(before["parts"]):
        return claim
    beside = before["beside"] if _rules(before["beside"]) == _rules(claim["beside"]) else claim["beside"]
    return claim | {key: before[key] for key in ("answer", "why", "parts")} | {"beside": beside}


def _rules(parts: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return [(part["title"], part["unit"], part["margin"]) for part in parts]
