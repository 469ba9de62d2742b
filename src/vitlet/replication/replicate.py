"""`vitlet reproduce`: plan, runs, findings, page."""

import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rich.table import Table as Columns

from vitlet.console import Teller
from vitlet.data.names import absolute_data
from vitlet.disk import read_json, write_json
from vitlet.errors import StoppedError, UsageError, VitletError
from vitlet.jobs.options import Options
from vitlet.jobs.slurm import Cluster
from vitlet.replication.calibrate import Cost, expected_cost, in_words
from vitlet.replication.catalogue import Choice, chosen
from vitlet.replication.findings import UNASKED, findings, spent
from vitlet.replication.merge import earlier_findings, merged
from vitlet.replication.plan import Node, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.runner import OF_ONE_RUN, attempt, forget_failures, num_side_by_side, run_plan
from vitlet.replication.scale import Scale
from vitlet.replication.scales import scale_by_name
from vitlet.replication.slurm import write_arrays
from vitlet.reports.claims import effect, headline, runs_behind, sample
from vitlet.reports.numbers import duration
from vitlet.reports.replication import write_replication_page
from vitlet.signals import stopping_at_once
from vitlet.text import plural, printable

DOCUMENT, PAGE, _BUDGET = "replication.json", "report.html", "budget.json"
_SAVE_SECONDS = 60.0
"""Minimum interval between two states of document and page: they take a second or two, and no run is started then."""


@dataclass(frozen=True)
class Request:
    """The arguments of a replication."""

    words: tuple[str, ...]
    """`table-1`, `figure-7`, `claim-12`, `claims`, `all`, …"""
    data: Path
    out: Path
    scale: str = "micro"
    seeds: int | None = None
    """None: the scale's number."""
    budget_seconds: float | None = None
    """For scale `own`: how long all runs may take in total on this machine."""
    side_by_side: int | None = None
    options: Options = field(default_factory=Options)
    """Settings that change no number, but `fresh`."""
    retry_failed: bool = False
    """Whether runs that diverged are repeated from the start."""

    def command(self, *, absolute: bool = False) -> list[str]:
        """The command line for this request."""
        data, out = str(self.data), str(self.out)
        if absolute:
            data, out = absolute_data(data), str(self.out.absolute())
        words = ["vitlet", "reproduce", *self.words, "--scale", self.scale, "--data", data, "--out", out]
        words += self.options.words()
        if self.seeds is not None:
            words += ["--seeds", str(self.seeds)]
        if self.budget_seconds is not None:
            words += ["--budget", f"{self.budget_seconds:g}s"]
        return words


def reproduce(request: Request, *, file: Path | None = None) -> dict[str, Any]:
    """Make every missing run, and write the findings as JSON and as a page.

    Args:
        request: What to run, on which images, at which scale, and where.
        file: Second copy of the document, besides `out/replication.json`, e.g. docs/results/replication-micro.json; its
            page is written next to it. What the file has already and these runs do not answer stays.

    Returns:
        The document; see `vitlet.replication.findings`.

    Raises:
        VitletError: of the kinds listed in `vitlet.errors`; if runs failed, of the first one's kind, after everything
            is written.
    """
    teller = Teller(quiet=request.options.quiet)
    choice, plan = _planned(request, teller)
    saver = _Saver(plan, choice, request, file)
    forget_failures(plan.failed, even_diverged=request.retry_failed)
    cost = expected_cost(plan, teller=teller, options=request.options)
    _say_plan(plan, cost, teller)

    try:
        with stopping_at_once(printable(plan.out)) as raise_if_stopped:

            def after() -> None:
                raise_if_stopped()
                saver.save()

            run_plan(
                plan, seconds=cost.seconds, side_by_side=request.side_by_side, options=request.options, teller=teller,
                after=after,
            )  # fmt: skip
    except (StoppedError, KeyboardInterrupt):
        saver.save_all()
        raise
    document = _conclude(saver, teller)
    if plan.failed:
        raise _failed(plan)
    return document


def _failed(plan: Plan) -> VitletError:
    """Build the final error for failed runs."""
    first, count, needing = plan.failed[0], len(plan.failed), len(plan.waiting) - len(plan.failed)
    others = f"{plural(needing, 'run')} that need{'s' if needing == 1 else ''} {'it' if count == 1 else 'them'}"
    more = f", and {count - 1} more" if count > 1 else ""
    return _as_recorded(
        first,
        f"{plural(count, 'run')} failed",
        why=f"{first.why_failed}{more}. Not made either: {others}. All others are finished",
    )


def _as_recorded(node: Node, what: str, *, why: str) -> VitletError:
    """Build an error of the same kind as the run's own."""
    assert node.failure is not None
    kind = next(kind for kind in OF_ONE_RUN if kind.exit_code == node.failure["exit_code"])
    return kind(what, where=printable(node.folder), why=why, fix="--retry-failed, which starts failed runs anew")


def collect(request: Request, *, file: Path | None = None) -> dict[str, Any]:
    """Write document and page from the finished runs, without running anything."""
    teller = Teller(quiet=request.options.quiet)
    choice, plan = _planned(request, teller)
    return _conclude(_Saver(plan, choice, request, file), teller)


@final
class _Saver:
    """Writes document and page of a replication from its finished runs."""

    def __init__(self, plan: Plan, choice: Choice, request: Request, file: Path | None = None) -> None:
        """Nothing is written yet; what `file` has already is read."""
        self.plan, self._choice, self._command = plan, choice, shlex.join(request.command())
        self.file, self._earlier = file, file and earlier_findings(file, self._findings())
        self._saved = -math.inf

    def save(self) -> None:
        """Write document and page from time to time; after a kill, the runs themselves have everything."""
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self._write()

    def save_all(self) -> dict[str, Any]:
        """Write both, and their copies with the earlier findings; return the document."""
        document = self._write()
        if self.file:
            grown = merged(document, self._earlier)
            write_json(self.file, grown)
            write_replication_page(grown, out=self.file.with_suffix(".html"))
        return document

    def _findings(self) -> dict[str, Any]:
        return findings(self.plan, self._choice, command=self._command)

    def _write(self) -> dict[str, Any]:
        document = self._findings()
        write_json(self.plan.out / DOCUMENT, document)
        write_replication_page(document, out=self.plan.out / PAGE)
        self._saved = time.monotonic()
        return document


def _conclude(saver: _Saver, teller: Teller) -> dict[str, Any]:
    """Write everything and print the findings."""
    plan, document = saver.plan, saver.save_all()
    teller.say(f"written: {printable(saver.file or plan.out / DOCUMENT)}")
    _say_claims(document["claims"], teller)
    if plan.waiting:
        teller.say(f"{plural(len(plan.waiting), 'run')} not made yet")
    for node in plan.failed:
        teller.say(node.why_failed)
    teller.say(f"{spent(document)} of CPU time in all\npage: {printable(plan.out / PAGE)}")
    return document


def _say_claims(claims: Sequence[Mapping[str, Any]], teller: Teller) -> None:
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


def show_plan(request: Request) -> Plan:
    """Print what would be run, what is finished, and the expected cost."""
    teller = Teller(quiet=request.options.quiet)
    choice, plan = _planned(request, teller)
    cost = expected_cost(plan, teller=teller, options=request.options)
    _print_plan(plan, cost, teller)
    _say_absent(plan, choice, teller)
    _say_plan(plan, cost, teller)
    return plan


def write_slurm(request: Request, folder: Path) -> list[Path]:
    """Write the plan as job arrays for a cluster, without running anything."""
    teller = Teller(quiet=request.options.quiet)
    _, plan = _planned(request, teller)
    forget_failures(plan.failed, even_diverged=request.retry_failed)
    cluster = Cluster(gpus=0 if request.options.device == "cpu" else 1)
    files = write_arrays(plan, folder, command=request.command(absolute=True)[1:], cluster=cluster)
    teller.say(f"{plural(len(plan.possible), 'run')} in {plural(len(files) - 2, 'array')}; start: "
               f"bash {printable(files[-1])}")  # fmt: skip
    return files


def make_one(request: Request, address: str) -> None:
    """Make the run with this address, as a task of a job array does.

    Raises:
        UsageError: if the plan has no such run, or one of its inputs is not finished.
        VitletError: if it fails, or has diverged before.
    """
    teller = Teller(quiet=request.options.quiet)
    _, plan = _planned(request, teller)
    if address not in plan.nodes:
        raise UsageError(f"no run {printable(address)} in this plan", fix="write the job arrays again")
    node = plan.nodes[address]
    for needed in (plan.nodes[a] for a in node.inputs):
        if not needed.is_finished:
            missing = plan.obstacle(needed) or needed
            raise UsageError(
                f"{node.title} needs {needed.title}, which is not finished",
                why=missing.why_failed,
                fix=f"--node {missing.address}{' --retry-failed' if missing.failure else ''} first",
            )
    forget_failures([node], even_diverged=request.retry_failed)
    if node.failure is None:
        attempt(node, options=request.options)
    if node.failure is not None:
        raise _as_recorded(node, f"{node.title}, seed {node.seed}, was not made", why=node.why_failed)


def _planned(request: Request, teller: Teller) -> tuple[Choice, Plan]:
    choice = chosen(request.words)
    scale = scale_by_name(request.scale)
    if request.seeds is not None:
        scale = scale.with_seeds(request.seeds)
    if request.budget_seconds is not None:
        scale = _within(scale, request, choice, teller)
    return choice, _plan(request, choice, scale)


def _plan(request: Request, choice: Choice, scale: Scale) -> Plan:
    outside = request.options.follow_outside
    return make_plan(
        choice.stages(scale.order), scale, data=request.data, out=request.out, follow_outside=outside
    )  # fmt: skip


def _within(scale: Scale, request: Request, choice: Choice, teller: Teller) -> Scale:
    """Scale the durations to the budget; decided once per folder, since it determines the runs."""
    assert request.budget_seconds is not None
    file = request.out / _BUDGET
    asked = {"seconds": request.budget_seconds, "words": list(request.words), "seeds": list(scale.seeds)}
    if file.is_file() and (kept := read_json(file))["asked"] == asked:
        return scale.within(kept["factor"])
    plan = _plan(request, choice, scale)
    cost = expected_cost(plan, teller=teller, options=request.options)
    total = cost.wall_seconds(plan, side_by_side=num_side_by_side(request.side_by_side, request.options))
    factor = float(f"{min(10.0, request.budget_seconds / total):.2g}") if total else 1.0
    if factor < 0.02:
        raise UsageError(
            f"{duration(request.budget_seconds)} for about {duration(total)} of runs at full length",
            why="Runs of less than a fiftieth of that would learn nothing",
            fix="a larger --budget, fewer --seeds, or one table instead of all",
        )
    write_json(file, {"asked": asked, "factor": factor})
    return scale.within(factor)


def _print_plan(plan: Plan, cost: Cost, teller: Teller) -> None:
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


def _say_absent(plan: Plan, choice: Choice, teller: Teller) -> None:
    for why, count in Counter([*plan.absent.values(), *choice.needs()]).items():
        teller.say(f"{plural(count, 'cell')} not run: {why}")


def _say_plan(plan: Plan, cost: Cost, teller: Teller) -> None:
    seconds, size, remark = in_words(cost, plan.waiting)
    finished = len(plan.nodes) - len(plan.waiting)
    failed = f", {len(plan.failed)} failed" if plan.failed else ""
    teller.say(
        f"{plural(len(plan.nodes), 'run')}, {finished} finished{failed}; about {duration(seconds)} of {cost.processor} "
        f"and {size / 1e6:,.0f} MB for the rest{f', and {remark}' if remark else ''}"
    )
