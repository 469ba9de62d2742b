"""The ledger of results as Markdown tables, made from the JSON files alone.

    python -m vitlet.reports.ledger docs/results README.md docs/results/README.md docs/results/replication.md

writes the results, the paper's claims and its tables between their markers in the pages.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vitlet.disk import read_json, write_file
from vitlet.errors import UsageError
from vitlet.reports.claims import effect, sample
from vitlet.reports.replication import items_markdown
from vitlet.reports.tables import interval_of_arm, without_interval
from vitlet.text import counted, decimal, percent, plural, points, uncapitalised

_MARKS = r"(?P<begin><!-- (?P<name>{}):begin(?: of (?P<files>[^:>]+))?[^>]*-->).*?(?P<end><!-- (?P=name):end -->)"


def rows(folder: Path, files: Sequence[str] = ("*",)) -> list[tuple[str, str, str, str]]:
    """(what, measured, n, file) for every figure in the ledger, ordered by `files` and then by name."""
    return [(*row, path.name) for path, entry in _entries(folder, files) for row in _rows(entry)]


def _entries(folder: Path, files: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    paths = dict.fromkeys(path for pattern in files for path in sorted(folder.glob(f"{pattern}.json")))
    return [(path, read_json(path)) for path in paths]


def _rows(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    if "protocols" in entry and "verdict" in entry:
        return [_compared(entry, protocol) for protocol in entry["protocols"]]
    if entry.get("kind") == "replication":
        return []  # it has a table of its own
    if entry.get("kind") == "learning":
        return [_learned(entry, name) for name in entry["pretraining_cpu_seconds"]]
    if entry.get("kind") == "study":
        return [_studied(entry, topic) for topic in entry["counts"]]
    if entry.get("kind") == "overfit":
        return [_learned_by_heart(entry), *([_raced(entry)] if "steps_to_loss" in entry else [])]
    if "curves" in entry:
        return [_varied(entry, curve, point) for curve in entry["curves"] for point in curve["points"]]
    if "computed" in entry.get("figures", {}):
        return [_reckoned(entry)]
    if entry.get("kind") == "transfer":
        return [_transferred(row) for row in entry["rows"] if row["state"] == "done"]
    if entry.get("kind") == "models":
        return [_lined_up(entry)]
    if "figures" in entry:
        return [_timed(entry)]
    return [(entry["protocol"], percent(entry["value"]), f"{entry['n']:,} {entry['split']} images")]


def _compared(entry: dict[str, Any], protocol: dict[str, Any]) -> tuple[str, str, str]:
    first, second = (sum(arm["values"]) / len(arm["values"]) for arm in protocol["arms"])
    difference = protocol["difference"]
    interval = ""
    if difference["low"] is not None:
        interval = f" ({points(difference['low'])} to {points(difference['high'])})"
    what = f"{entry['data']['name']}: {uncapitalised(protocol['title'])}"
    measured = f"{percent(second)} → {percent(first)}, {points(difference['mean'])} points{interval}"
    return what, measured, counted(difference["pairs"], protocol["n"], split=protocol["split"])


def _varied(entry: dict[str, Any], curve: dict[str, Any], point: dict[str, Any]) -> tuple[str, str, str]:
    arms = []
    for arm in (*point["arms"], *curve["references"]):
        interval = _between(arm) if interval_of_arm(arm) else without_interval(arm)
        arms.append(f"{arm['title']} {percent(arm['mean'])} ({interval})")
    what = f"{entry['data']['name']}: {uncapitalised(curve['title'])}, {point['label']}"
    return what, ", ".join(arms), counted(len(point["arms"][0]["values"]), curve["n"], split=curve["split"])


def _between(row: Mapping[str, Any]) -> str:
    """`57.0 to 61.3`: the ends of an accuracy's interval in per cent."""
    return " to ".join(decimal(100 * row[end], sign=False) for end in ("low", "high"))


def _learned(entry: dict[str, Any], name: str) -> tuple[str, str, str]:
    accuracies, seeds = [], []
    for protocol, table in entry["protocols"].items():
        row = table[name]
        seeds.append(str(len(row["values"])))
        random = row["mean"] - row["difference"]["mean"]
        accuracies.append(f"{protocol} {percent(row['mean'])} (random {percent(random)})")
    return (
        f"{entry['title'].split(':')[0]}: {name}",
        "; ".join(accuracies),
        f"{'/'.join(seeds)} seeds, {entry['n']:,} images",
    )


def _studied(entry: dict[str, Any], topic: str) -> tuple[str, str, str]:
    outcomes = ", ".join(f"{number} {word}" for word, number in entry["counts"][topic].items())
    labels = " and ".join(f"{count:,}" for count in entry["labels"])
    return f"{entry['title']}: {topic.lower()}", outcomes, f"{labels} labels, {entry['seeds']} seeds"


def _learned_by_heart(entry: dict[str, Any]) -> tuple[str, str, str]:
    scores = [f"{kind} AP50 {percent(value or 0)}" for kind, value in entry["scores"]["random-0"].items()]
    return (
        entry["title"],
        f"{', '.join(scores)}, {entry['wall_seconds_of_first_run'] / 60:.0f} min",
        f"{entry['n']} images",
    )


def _raced(entry: dict[str, Any]) -> tuple[str, str, str]:
    race = entry["steps_to_loss"]
    first, second = (sum(race[start]) / len(race[start]) for start in ("random", "pretrained"))
    difference = {end: None if value is None else decimal(value, 0) for end, value in race["difference"].items()}
    interval = "" if difference["low"] is None else f" ({difference['low']} to {difference['high']})"
    measured = f"{first:.0f} → {second:.0f} steps, {difference['mean']}{interval}"
    what = f"{entry['title']}: to a training loss of {race['loss']:.2f}, from random weights → {entry['init']}"
    return what, measured, f"{entry['seeds']} seeds, {entry['n']} images"


def _reckoned(entry: dict[str, Any]) -> tuple[str, str, str]:
    figures = entry["figures"]
    step = figures["measured"]["step_ms_per_image"]
    return f"`{entry['machine']['command']}`", f"{step:.1f} ms an image and step", f"{figures['repeats']} repetitions"


def _transferred(row: dict[str, Any]) -> tuple[str, str, str]:
    interval = "" if row["low"] is None else f" ({_between(row)})"
    what = f"{row['data_title']}: transfer from {row['encoder']}, {row['labels']}"
    diverged = len(row.get("diverged", ()))
    lost = f" ({diverged} more diverged)" if diverged else ""
    sizes = f"{plural(len(row['values']), 'seed')}{lost}, {row['n']:,} {row['split']} images"
    return what, f"{percent(row['mean'])}{interval}", sizes


def _lined_up(entry: dict[str, Any]) -> tuple[str, str, str]:
    figures = entry["figures"]
    models = sorted(figures["models"].items(), key=lambda pair: -pair[1]["images_per_second"])
    ends = [f"{name} {row['images_per_second']:.1f}" for name, row in (models[0], models[-1])]
    ours = [f"{name} {row['images_per_second']:.1f}" for name, row in models[1:-1] if name.startswith("finetune_")]
    measured = f"images/s of {len(models)} models: {', '.join([ends[0], *ours, ends[1]])}"
    return f"`{entry['machine']['command']}`", measured, f"{figures['repeats']} turns, {figures['engine']}"


def _timed(entry: dict[str, Any]) -> tuple[str, str, str]:
    figures = entry["figures"]
    ratio = figures["ratio"]
    if "packed_ratio" in figures:
        ratio = ratio | {f"packed {form}": value for form, value in figures["packed_ratio"].items()}
    by_name = ratio if isinstance(ratio, dict) else {"": ratio}
    ratios = ", ".join(f"{name} {value:.2f}×".strip() for name, value in by_name.items() if value)
    return f"`{entry['machine']['command']}`", ratios, f"{figures['repeats']} repetitions, one thread, CPU time"


def markdown(folder: Path, files: Sequence[str] = ("*",), *, links: str = "") -> str:
    """Return the table; the measured column reads "random start → pre-trained" where two starts are compared.

    Args:
        folder: Folder of the ledger.
        files: File names without `.json`, or patterns.
        links: Prefix of links to its files.
    """
    lines = ["| what | measured (95 % interval) | n | file |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {measured} | {n} | [{file}]({links}{file}) |" for what, measured, n, file in rows(folder, files)
    ]
    return "\n".join(lines)


def claims_markdown(folder: Path, files: Sequence[str] = ("*",), *, links: str = "") -> str:
    """The paper's claims and the answer of each replication in the ledger; claims that were not run are listed too."""
    lines = ["| claim of the paper | scale | answer | effect (95 % interval) | n | file |", "|---|---|---|---|---|---|"]
    for path, entry in _entries(folder, files):
        if entry.get("kind") == "replication":
            lines += [_claimed(entry, claim, f"[{path.name}]({links}{path.name})") for claim in entry["claims"]]
    return "\n".join(lines)


def replication_markdown(folder: Path, files: Sequence[str] = ("*",), *, links: str = "") -> str:
    """Every table and figure of the paper, from the ledger's replications."""
    return "\n\n".join(
        items_markdown(entry, page=f"{links}{path.with_suffix('.html').name}")
        for path, entry in _entries(folder, files)
        if entry.get("kind") == "replication"
    )


def _claimed(entry: dict[str, Any], claim: dict[str, Any], link: str) -> str:
    measured, n = "", ""
    if claim["answer"] != "not run":
        part = next(p for p in claim["parts"] if p["answer"] == claim["answer"])  # the decisive one
        mean, interval = effect(part)
        measured, n = f"{part['title']}: {mean} ({interval})", sample(part)
    answer = f"not run: {claim['why']}" if claim["answer"] == "not run" else claim["answer"]
    name = f"{claim['number']} {claim['statement']} ({claim['source']})"
    return f"| {name} | {entry['scale']} | {answer} | {measured} | {n} | {link} |"


def fill(text: str, tables: Mapping[str, Callable[[Sequence[str]], str]]) -> str:
    """Replace each table between its markers, `<!-- NAME:begin of FILES: a remark -->` and `<!-- NAME:end -->`.

    Args:
        text: A page in Markdown.
        tables: By name, a function that makes the table for FILES (names or patterns in the ledger; `*` by default).

    Raises:
        UsageError: if there are no markers for any of the names.
    """

    def table(marks: re.Match[str]) -> str:
        files = (marks["files"] or "*").split()
        return f"{marks['begin']}\n\n{tables[marks['name']](files)}\n\n{marks['end']}"

    text, count = re.compile(_MARKS.format("|".join(tables)), re.DOTALL).subn(table, text)
    if not count:
        name = next(iter(tables))
        why = f"<!-- {name}:begin --> and <!-- {name}:end --> are needed"
        raise UsageError("no marks for a table", why=why, fix="put them back")
    return text


def filled(page: Path, folder: Path) -> str:
    """The text of `page`, with every table filled from the ledger in `folder`."""
    links = os.path.relpath(folder, page.parent)
    links = "" if links == "." else f"{links}/"
    makers = {"results": markdown, "claims": claims_markdown, "replication": replication_markdown}
    return fill(page.read_text(), {name: partial(make, folder, links=links) for name, make in makers.items()})


if __name__ == "__main__":
    for name in sys.argv[2:]:
        write_file(Path(name), filled(Path(name), Path(sys.argv[1])).encode())
