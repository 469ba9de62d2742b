"""`vitlet reproduce`: plan, runs, findings, page."""

import math
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from vitlet.console import Teller
from vitlet.data.names import absolute_data
from vitlet.disk import read_json, write_json
from vitlet.distributed.world import World
from vitlet.errors import StoppedError, UsageError, VitletError
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.jobs.slurm import Cluster
from vitlet.replication.calibrate import Cost, expected_cost
from vitlet.replication.catalogue import Choice, chosen
from vitlet.replication.findings import findings, spent
from vitlet.replication.merge import earlier_findings, merged
from vitlet.replication.plan import Node, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.runner import OF_ONE_RUN, attempt, forget_failures
from vitlet.replication.scale import Scale
from vitlet.replication.scales import scale_by_name
from vitlet.replication.schedule import num_side_by_side, run_plan
from vitlet.replication.slurm import write_arrays
from vitlet.replication.telling import print_plan, say_absent, say_claims, say_plan
from vitlet.reports.numbers import duration
from vitlet.reports.replication import write_replication_page
from vitlet.run import address_of
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
    """Make every missing run, and write the findings as JSON and as a page; every rank of torchrun makes whole runs.

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
    with World.joined(pick_device(request.options)) as world:
        if world.size > 1 and request.side_by_side is not None:
            raise UsageError(
                "--side-by-side under torchrun",
                why="Every rank makes one run at a time",
                fix=f"leave it out, or torchrun --nproc-per-node {request.side_by_side}",
            )
        return _reproduce(request, world, file)


def _reproduce(request: Request, world: World, file: Path | None) -> dict[str, Any]:
    teller = Teller(quiet=request.options.quiet)
    choice, plan = _planned(request, teller)
    saver = _Saver(plan, choice, request, file)
    if world.is_first:
        forget_failures(plan.failed, even_diverged=request.retry_failed)
    cost = _cost(plan, request, teller)
    say_plan(plan, cost, teller)

    try:
        with stopping_at_once(printable(plan.out)) as raise_if_stopped:

            def after() -> None:
                raise_if_stopped()
                if world.is_first:
                    saver.save()

            run_plan(
                plan, seconds=cost.seconds, side_by_side=request.side_by_side, options=request.options, teller=teller,
                after=after,
            )  # fmt: skip
    except (StoppedError, KeyboardInterrupt):
        if world.is_first:
            saver.save_all()
        raise
    document = world.broadcast_json(_conclude(saver, teller) if world.is_first else None)
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
    say_claims(document["claims"], teller)
    if plan.waiting:
        teller.say(f"{plural(len(plan.waiting), 'run')} not made yet")
    for node in plan.failed:
        teller.say(node.why_failed)
    teller.say(f"{spent(document)} of CPU time in all\npage: {printable(plan.out / PAGE)}")
    return document


def show_plan(request: Request) -> Plan:
    """Print what would be run, what is finished, and the expected cost."""
    teller = Teller(quiet=request.options.quiet)
    choice, plan = _planned(request, teller)
    cost = _cost(plan, request, teller)
    print_plan(plan, cost, teller)
    say_absent(plan, choice, teller)
    say_plan(plan, cost, teller)
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
    world = World.here()
    with world.first_per_host():
        plan = make_plan(
            choice.stages(scale.order), scale, data=request.data, out=request.out, follow_outside=outside
        )  # fmt: skip
    world.require_same(
        f"{plural(len(plan.nodes), 'run')} ({address_of(list(plan.nodes))[:12]})", of="images or weights"
    )
    return plan


def _cost(plan: Plan, request: Request, teller: Teller) -> Cost:
    """`expected_cost`; what the first rank of a host tried, the others find."""
    world = World.here()
    with world.first_per_host(), world.apart():
        return expected_cost(plan, teller=teller, options=request.options)


def _within(scale: Scale, request: Request, choice: Choice, teller: Teller) -> Scale:
    """Scale the durations to the budget; decided once per folder, since it determines the runs."""
    assert request.budget_seconds is not None
    file = request.out / _BUDGET
    asked = {"seconds": request.budget_seconds, "words": list(request.words), "seeds": list(scale.seeds)}
    world = World.here()
    kept = world.broadcast_json(read_json(file) if file.is_file() else None)
    if kept is not None and kept["asked"] == asked:
        return scale.within(kept["factor"])
    plan = _plan(request, choice, scale)
    parallel = num_side_by_side(request.side_by_side, request.options)
    total = world.broadcast_json(_cost(plan, request, teller).wall_seconds(plan, side_by_side=parallel))
    factor = float(f"{min(10.0, request.budget_seconds / total):.2g}") if total else 1.0
    if factor < 0.02:
        raise UsageError(
            f"{duration(request.budget_seconds)} for about {duration(total)} of runs at full length",
            why="Runs of less than a fiftieth of that would learn nothing",
            fix="a larger --budget, fewer --seeds, or one table instead of all",
        )
    if world.is_first:
        write_json(file, {"asked": asked, "factor": factor})
    return scale.within(factor)
