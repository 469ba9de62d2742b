"""What a replication prints: its plan, and its claims with their answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Columns

from vitlet.console import Teller
from vitlet.replication.calibrate import Cost, in_words
from vitlet.replication.catalogue import Choice
from vitlet.replication.findings import UNASKED
from vitlet.replication.plan import Plan
from vitlet.reports.claims import effect, headline, runs_behind, sample
from vitlet.reports.numbers import duration
from vitlet.text import plural, printable


def say_claims(claims: Sequence[Mapping[str, Any]], teller: Teller) -> None:
    """Print each claim's answer, effect, interval and n of every part, and the runs behind them."""
    for claim in claims:
        if claim["why"] == UNASKED:
            continue
        why = f" ({claim['why']})" if claim["why"] else ""
        teller.say(f"{claim['number']:2}  {claim['statement']}: {claim['answer']}{why}")
        for mark, part in [
            *(("", part) for part in claim["parts"]),
            *(("beside it, ", part) for part in claim["beside"]),
        ]:
            found, interval = effect(part)
            seen = f" ({interval}), {sample(part)}" if interval else ""
            teller.say(f"      {mark}{part['title']}: {found}{seen}")
        if runs := runs_behind(claim):
            teller.say(f"      runs: {', '.join(runs)}")
    if claims:
        teller.say(headline(claims))


def print_plan(plan: Plan, cost: Cost, teller: Teller) -> None:
    """Print a table of the runs, with the time and disk space that they need."""
    table = Columns(title=f"scale {plan.scale.name}: {plan.scale.about}")
    for column in ("run", "seeds", "finished", "time", "disk", ""):
        table.add_column(column)
    groups: dict[tuple[str, str], list[Any]] = {}
    for node in plan.nodes.values():
        groups.setdefault((node.kind, node.title), []).append(node)
    for (kind, title), nodes in groups.items():
        seconds, size, remark = in_words(cost, nodes)
        table.add_row(
            f"{kind}: {printable(title.removeprefix('images: '))}",
            str(len(nodes)),
            str(sum(n.is_finished for n in nodes)),
            duration(seconds) if seconds else "",
            f"{size / 1e6:,.0f} MB" if size else "",
            remark,
        )
    teller.console.print(table)


def say_absent(plan: Plan, choice: Choice, teller: Teller) -> None:
    """Print how many cells are not run, and why."""
    for why, count in Counter([*plan.absent.values(), *choice.needs()]).items():
        teller.say(f"{plural(count, 'cell')} not run: {why}")


def say_plan(plan: Plan, cost: Cost, teller: Teller) -> None:
    """Print the number of runs, finished and failed ones, and the cost of the rest."""
    seconds, size, remark = in_words(cost, plan.waiting)
    finished = len(plan.nodes) - len(plan.waiting)
    failed = f", {len(plan.failed)} failed" if plan.failed else ""
    teller.say(
        f"{plural(len(plan.nodes), 'run')}, {finished} finished{failed}; about {duration(seconds)} of {cost.processor} "
        f"and {size / 1e6:,.0f} MB for the rest{f', and {remark}' if remark else ''}"
    )
