"""The ledger of results as a table in Markdown, from the JSON files alone.

    python -m vitlet.report.ledger docs/results README.md

writes the table between the marks in the second file.
"""

import sys
from pathlib import Path
from typing import Any

from vitlet.errors import UsageError
from vitlet.run import read_json, write_file

BEGIN, END = "<!-- results:begin", "<!-- results:end -->"


def rows(folder: Path) -> list[tuple[str, str, str, str]]:
    """(what, measured, n, file) of every figure in the ledger, in the order of file names."""
    found: list[tuple[str, str, str, str]] = []
    for path in sorted(folder.glob("*.json")):
        found += [(*row, path.name) for row in _rows(read_json(path))]
    return found


def _rows(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    if "protocols" in entry and "verdict" in entry:
        return [_compared(entry, protocol) for protocol in entry["protocols"]]
    if entry.get("kind") == "learning":
        return [_learned(entry, name) for name in entry["pretraining_cpu_seconds"]]
    if entry.get("kind") == "overfit":
        return [_learned_by_heart(entry)]
    if "figures" in entry:
        return [_timed(entry)]
    return [(entry["protocol"], f"{100 * entry['value']:.1f} %", f"{entry['n']:,} {entry['split']} images")]


def _compared(entry: dict[str, Any], protocol: dict[str, Any]) -> tuple[str, str, str]:
    first, second = (sum(arm["values"]) / len(arm["values"]) for arm in protocol["arms"])
    found = protocol["difference"]
    interval = "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    what = f"{entry['data']['name']}: {protocol['title'][:1].lower()}{protocol['title'][1:]}"
    measured = f"{100 * second:.1f} % → {100 * first:.1f} %, {100 * found['mean']:+.1f} points{interval}"
    return what, measured, f"{found['pairs']} seeds, {protocol['n']:,} {protocol['split']} images"


def _learned(entry: dict[str, Any], name: str) -> tuple[str, str, str]:
    shown = []
    for protocol, table in entry["protocols"].items():
        row = table[name]
        random = row["mean"] - row["difference"]["mean"]
        shown.append(f"{protocol} {100 * row['mean']:.1f} % (random {100 * random:.1f} %)")
    return f"{entry['title'].split(':')[0]}: {name}", "; ".join(shown), f"{entry['seeds']} seeds, {entry['n']:,} images"


def _learned_by_heart(entry: dict[str, Any]) -> tuple[str, str, str]:
    shown = [f"{kind} AP50 {100 * (value or 0):.1f} %" for kind, value in entry["scores"]["random-0"].items()]
    return (
        entry["title"],
        f"{', '.join(shown)}, {entry['wall_seconds_of_first_run'] / 60:.0f} min",
        f"{entry['n']} images",
    )


def _timed(entry: dict[str, Any]) -> tuple[str, str, str]:
    figures = entry["figures"]
    ratio = figures["ratio"]
    shown = ", ".join(f"{k} {v:.2f}×" for k, v in ratio.items() if v) if isinstance(ratio, dict) else f"{ratio:.2f}×"
    return f"`{entry['machine']['command']}`", shown, f"{figures['repeats']} repetitions, one thread, CPU time"


def markdown(folder: Path) -> str:
    """The table; the measured column reads "random start → pre-trained" where two starts are compared."""
    lines = ["| what | measured (95 % interval) | n | file |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {measured} | {n} | [{file}](docs/results/{file}) |" for what, measured, n, file in rows(folder)
    ]
    return "\n".join(lines)


def fill(text: str, table: str) -> str:
    """`text` with `table` between the marks.

    Raises:
        UsageError: if the marks are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    mark, _, after = rest.partition("\n")
    _, end, tail = after.partition(END)
    if not begin or not end:
        raise UsageError("no marks for the results", why=f"{BEGIN} … --> and {END} are needed", fix="put them back")
    return f"{head}{begin}{mark}\n\n{table}\n\n{end}{tail}"


if __name__ == "__main__":
    page = Path(sys.argv[2])
    write_file(page, fill(page.read_text(), markdown(Path(sys.argv[1]))).encode())
