"""The page about a transfer: accuracy on every data set with intervals, the chosen settings, and what was left out.

Everything is drawn from `transfer.json`. The guarantees of `vitlet.reports.page` hold: one file, no script, no network.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

from vitlet.disk import read_json, write_file
from vitlet.reports import evidence
from vitlet.reports.elements import Table, template
from vitlet.reports.numbers import between_shares, duration, percent
from vitlet.text import plural, shareable


def write_transfer_page(folder: Path) -> Path:
    """Write `report.html` in `folder` from its `transfer.json`.

    Returns:
        The page.

    Raises:
        CheckpointError: if the file is missing or damaged.
        ResourceError: if the page cannot be written.
    """
    document = read_json(folder / "transfer.json")
    done = [row for row in document["rows"] if row["state"] == "done"]
    names = list(dict.fromkeys(row["encoder"] for row in document["rows"]))
    page = template("transfer.html.j2").render(
        suite=document["suite"],
        names=names,
        selection=document["selection"],
        date=document["machine"]["started"][:10],
        accuracy=evidence.accuracy([], {"protocols": _protocols(done, names)}) if done else None,
        overview=_overview(document["rows"], names),
        chosen=_chosen(done),
        tried=[_tried(row) for row in done if row["tried"]],
        missing=[(row["data_title"], row["encoder"], row["why"]) for row in document["rows"] if row["state"] != "done"],
        command=shareable(document["machine"]["command"]),
        facts=[
            ("wall time", duration(document["wall_seconds"])),
            ("CPU time of all trainings", duration(sum(row["cpu_seconds"] for row in done))),
            ("processor", document["machine"]["processor"]),
            ("PyTorch", document["machine"]["packages"]["torch"]),
        ],
    )
    write_file(folder / "report.html", page.encode())
    return folder / "report.html"


def _protocols(done: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """One group of the accuracy chart per data set, one arm per encoder, which keeps its colour throughout."""
    protocols = []
    for title, members in groupby(done, key=lambda row: row["data_title"]):
        rows = {row["encoder"]: row for row in members}
        first = next(iter(rows.values()))
        arms = [
            {"name": name, "title": name, "values": row["values"], "seeds": row["seeds"], "runs": row["runs"]}
            if (row := rows.get(name))
            else {"name": name, "title": name, "values": []}
            for name in names
        ]
        protocols.append(
            {
                "title": f"{title}, {first['num_classes']:,} classes, {first['labels']}",
                "metric": "top1",
                "n": first["n"],
                "split": first["split"],
                "arms": arms,
                "difference": None,
            }
        )
    return protocols


def _overview(rows: list[dict[str, Any]], names: list[str]) -> Table:
    """Data sets as rows, encoders as columns: mean top-1."""
    cells = {(row["data_title"], row["encoder"]): _mean(row) for row in rows}
    titles = list(dict.fromkeys(row["data_title"] for row in rows))
    body = tuple((title, *(cells.get((title, name), "–") for name in names)) for title in titles)
    return Table("Top-1, mean over seeds", ("data set", *names), body, numeric=range(1, len(names) + 1))


def _mean(row: dict[str, Any]) -> str:
    return percent(row["mean"]) + _lost(row) if row["state"] == "done" else "not here"


def interval_of(row: dict[str, Any]) -> str:
    """The interval of a row's mean, and how many seeds are missing from it because they diverged."""
    interval = "one seed" if row["low"] is None else between_shares(row["low"], row["high"])
    return interval + _lost(row)


def _lost(row: dict[str, Any]) -> str:
    diverged = len(row.get("diverged", ()))  # absent in files from before it was counted
    return f", {diverged} of {plural(diverged + len(row['values']), 'seed')} diverged" if diverged else ""


def _chosen(done: list[dict[str, Any]]) -> Table:
    columns = ("data set", "encoder", "learning rate", "length", "layer decay", "top-1", "interval", "CPU")
    body = tuple(
        (
            row["data_title"],
            row["encoder"],
            f"{row['chosen']['lr']:g}",
            _length(row["chosen"]),
            f"{row['chosen']['layer_decay']:g}",
            percent(row["mean"]),
            interval_of(row),
            duration(row["cpu_seconds"]),
        )
        for row in done
    )
    return Table("The setting that each number was reached with", columns, body, numeric=(2, 4, 5, 7))


def _tried(row: dict[str, Any]) -> Table:
    columns = ("learning rate", "length", "layer decay", "top-1", "counted on")
    body = tuple(
        (
            f"{setting['lr']:g}",
            _length(setting),
            f"{setting['layer_decay']:g}",
            "diverged" if setting["value"] is None else percent(setting["value"]),
            "" if setting["value"] is None else f"{setting['n']:,} {setting['split']}",
        )
        for setting in row["tried"]
    )
    best = max((s["value"] for s in row["tried"] if s["value"] is not None), default=None)
    marked = frozenset(i for i, s in enumerate(row["tried"]) if s["value"] is not None and s["value"] == best)
    caption = f"{row['data_title']}, {row['encoder']}: one seed a setting"
    return Table(caption, columns, body, numeric=(2, 3), marked=marked)


def _length(setting: dict[str, Any]) -> str:
    n, unit = setting["duration"]["n"], setting["duration"]["unit"]
    return f"{n:g} {unit.removesuffix('s') if n == 1 else unit}"
