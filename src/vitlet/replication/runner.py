"""Making the runs of a plan: finished ones are skipped, interrupted ones continue from their checkpoint.

A run is finished when its folder holds node.json, which is written last. So a kill at any moment costs at most the
steps since the last checkpoint of the runs in progress. If there are enough cores, several runs are made in parallel,
one thread each, since small networks gain little from a second thread.

A run that diverges, or fails for another reason of its own, leaves failed.json in its folder, and so does one whose
process is lost. Runs that need it are not made; all others are.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlet.console import Teller
from vitlet.disk import read_json, remove_folder, storage_error, to_json_bytes, write_json
from vitlet.errors import CheckpointError, DataError, NonFiniteError, VitletError, WorkerError
from vitlet.evaluation.result import write_result
from vitlet.host import available_cores
from vitlet.jobs.analysing import analyse
from vitlet.jobs.evaluating import evaluate
from vitlet.jobs.evaluation import probe
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.jobs.pool import Pool, processes
from vitlet.jobs.side_by_side import num_places
from vitlet.jobs.suites import best_setting
from vitlet.jobs.training import finetune, pretrain
from vitlet.recipe import Recipe
from vitlet.recipes import from_json, with_overrides
from vitlet.replication.images import write_half
from vitlet.replication.plan import DIVERGED, FAILED_FILE, NODE_FILE, Node, Plan, recipe_of
from vitlet.reports.numbers import duration
from vitlet.run import Run, environment, hardware
from vitlet.train.clock import Clock

QUIET = Options(quiet=True)
_POLL_SECONDS = 0.5
OF_ONE_RUN: tuple[type[VitletError], ...] = (NonFiniteError, DataError, CheckpointError, WorkerError)
"""Errors that concern only the run they come from. A full disk, a stop and wrong usage concern all runs."""


def make(node: Node, *, options: Options = QUIET) -> None:
    """Make or resume one run. Its inputs must be finished.

    Args:
        node: Node of a plan.
        options: Settings that change no number; `fresh` is decided here.
    """
    if node.is_finished:
        return
    options = options.changed(fresh=_was_moved(node))
    clock = Clock()
    is_resumed = not options.fresh and Run(node.folder).recipe_file.is_file()
    match node.kind:
        case "images":
            assert node.half is not None
            write_half(
                node.data, node.half, node.folder, note=to_json_bytes(_facts(node)),
                follow_outside=options.follow_outside,
            )  # fmt: skip
            return
        case "pretrain":
            pretrain(_asked(node), data=node.data, out=node.folder, subset=node.subset, options=options)
        case "finetune":
            _finetune(node, options)
        case "evaluate":
            assert node.start is not None
            result = evaluate(node.start, data=node.data, protocol=node.labels, options=options)
            write_result(Run(node.folder), "top1", result)
        case "probe":
            assert node.start is not None
            result = probe(node.start, data=node.data, protocol=node.protocol, pool=node.pool, options=options)
            write_result(Run(node.folder), "top1", result)
        case "look":
            words = [f"random:{f}" if i in node.untrained else str(f) for i, (_, f) in enumerate(node.subjects)]
            analyse(words, data=node.data, out=node.folder, images=node.look_images, seed=node.seed, options=options)
    write_json(node.folder / NODE_FILE, _facts(node) | clock.spent() | {"is_resumed": is_resumed})


def attempt(node: Node, *, options: Options = QUIET) -> None:
    """Call `make`, but write an error that concerns only this run into the run's folder instead of raising it.

    Raises:
        VitletError: for errors that concern other runs too, such as images that cannot be divided.
    """
    try:
        make(node, options=options)
    except OF_ONE_RUN as error:
        if node.kind == "images":
            raise
        _record_failure(node, error)


def _record_failure(node: Node, error: VitletError) -> None:
    found = {"error": type(error).__name__, "exit_code": error.exit_code, "what": error.what, "message": str(error)}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(node.folder / FAILED_FILE, found | {"address": node.address, "when": when})


def forget_failures(nodes: Sequence[Node], *, even_diverged: bool) -> None:
    """Allow failed runs to be made again.

    Args:
        nodes: Nodes of a plan.
        even_diverged: Whether to include runs that diverged, which they would do again; then all failed
            runs start over. Otherwise only the others are retried, from their checkpoints.
    """
    for node in nodes:
        failure = node.failure
        if failure is not None and even_diverged:
            remove_folder(node.folder)
        elif failure is not None and failure["error"] != DIVERGED:
            file = node.folder / FAILED_FILE
            try:
                file.unlink()
            except OSError as error:
                raise storage_error(error, file, 0) from error


def _finetune(node: Node, options: Options) -> None:
    try:
        finetune(
            _asked(node), init=node.start, data=node.data, out=node.folder, num_labels=node.num_labels,
            keep_blocks=node.keep_blocks, hold_out=node.hold_out, options=options,
        )  # fmt: skip
    except NonFiniteError:
        if not node.hold_out:
            raise
    if node.hold_out:  # a grid leaves many; only the number is kept
        remove_folder(Run(node.folder).checkpoints)


def _asked(node: Node) -> Recipe:
    """The recipe to train, with the teacher filled in."""
    recipe = _setting(node)
    return recipe if node.teacher is None else with_overrides(recipe, {"objective.teacher": str(node.teacher)})


def _setting(node: Node) -> Recipe:
    """The node's recipe or, if settings were tried, that of the best one."""
    if not node.settings:
        return recipe_of(node)
    tried = [(from_json(read_json(place / "recipe.json")), _accuracy(place)) for place in node.settings]
    return best_setting(tried, of=node.title)


def _accuracy(run: Path) -> float | None:
    """Top-1 of a run; None if it diverged, which leaves no result."""
    file = run / "results" / "top1.json"
    return read_json(file)["value"] if file.is_file() else None


def _was_moved(node: Node) -> bool:
    """Whether an unfinished run recorded another data path, to which its checkpoints are tied."""
    if not Run(node.folder).recipe_file.is_file():
        return False
    return read_json(node.folder / "environment.json")["launch"]["data"] != str(node.data)


def run_plan(
    plan: Plan,
    *,
    seconds: Mapping[str, float],
    side_by_side: int | None = None,
    options: Options = QUIET,
    teller: Teller | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Make every unfinished run of the plan that needs no failed one.

    Args:
        plan: The runs.
        seconds: Expected cost by address, for the estimate of the time left.
        side_by_side: Number of parallel runs; None: the number of cores, or one on a GPU.
        options: Settings that change no number; `quiet` and `fresh` are decided here.
        teller: Receives progress messages.
        after: Called after each run, for example to show the results so far.
    """
    teller = teller or Teller()
    workers = min(num_side_by_side(side_by_side, options), len(plan.possible))
    if workers <= 1:
        _one_by_one(plan, seconds, options=options, teller=teller, after=after)
        return
    with processes(workers, threads=available_cores() // workers) as pool:
        _side_by_side(pool, plan, seconds, options=options, teller=teller, after=after)


def num_side_by_side(asked: int | None, options: Options) -> int:
    """Number of parallel runs: as requested, or else the number of cores, or one on a GPU."""
    return asked or num_places(options)


def is_on_cpu(options: Options) -> bool:
    """Whether the device resolves to the CPU here."""
    return pick_device(options).type == "cpu"


def _one_by_one(
    plan: Plan, seconds: Mapping[str, float], *, options: Options, teller: Teller, after: Callable[[], None]
) -> None:
    waiting = plan.possible
    clock = _Clock(waiting, seconds)
    for number, node in enumerate(waiting, 1):
        if plan.obstacle(node) is None:
            teller.say(f"[{number}/{len(waiting)}] {node.title}, seed {node.seed}; {clock.left()} left in all")
            attempt(node, options=options.changed(quiet=teller.console.quiet))
            _say_failure(node, teller)
            after()
        clock.finished(node)


def _say_failure(node: Node, teller: Teller) -> None:
    if node.failure is not None:
        teller.say(f"{node.why_failed}; going on with what does not need it")


def _side_by_side(
    pool: Pool,
    plan: Plan,
    seconds: Mapping[str, float],
    *,
    options: Options,
    teller: Teller,
    after: Callable[[], None],
) -> None:
    waiting = {node.address: node for node in plan.possible}
    total = sum(seconds.get(address, 0.0) for address in waiting)
    finished = 0.0
    with teller.progress("making runs", total=max(1, round(total))) as tick:
        while waiting or pool.running:
            ready = [n for n in waiting.values() if not any(i in waiting or i in pool.running for i in n.inputs)]
            for node in ready[: pool.free]:
                pool.begin(node.address, attempt, node, options=options.changed(quiet=True))
                del waiting[node.address]
            for node in _ended(pool, plan):
                _say_failure(node, teller)
                waiting = {a: n for a, n in waiting.items() if plan.obstacle(n) is None}
                finished += seconds.get(node.address, 0.0)
                after()
            running = _of(plan, pool.running)
            under_way = sum(seconds.get(node.address, 0.0) * _share_done(node) for node in running)
            names = ", ".join(f"{node.title} s{node.seed}" for node in running)
            tick(round(finished + under_way), f"{len(waiting) + len(running)} runs left: {names}")


def _ended(pool: Pool, plan: Plan) -> list[Node]:
    """The runs that ended meanwhile. One whose process was lost, such as for want of memory, has failed like others.

    Raises:
        VitletError: as `attempt`; also for lost images, which all others need.
    """
    before = pool.running
    try:
        pool.ended(_POLL_SECONDS)
    except WorkerError as error:
        for node in _of(plan, before - pool.running):
            if not node.is_finished and node.failure is None:
                if node.kind == "images":
                    raise
                _record_failure(node, error)
    return _of(plan, before - pool.running)


def _of(plan: Plan, addresses: Iterable[str]) -> list[Node]:
    return [plan.nodes[address] for address in sorted(addresses)]


def _share_done(node: Node) -> float:
    """Completed share of a training, from its metrics; 0 for anything else."""
    if node.kind not in ("pretrain", "finetune") or not node.folder.is_dir():
        return 0.0
    rows = Run(node.folder).metrics()
    batch = node.recipe["budget"]["batch_size"]
    return min(1.0, rows[-1]["step"] * batch / max(1, node.images_seen)) if rows else 0.0


class _Clock:
    """Estimates the time left from expected seconds, corrected by how long the finished runs took."""

    def __init__(self, waiting: Sequence[Node], seconds: Mapping[str, float]) -> None:
        self._left = {node.address: seconds.get(node.address, 0.0) for node in waiting}
        self._expected, self._began = 0.0, time.monotonic()

    def finished(self, node: Node) -> None:
        """Remove a run from the estimate."""
        self._expected += self._left.pop(node.address)

    def left(self) -> str:
        """The time left, in words."""
        slower = (time.monotonic() - self._began) / self._expected if self._expected > 0 else 1.0
        total = sum(self._left.values())
        return f"about {duration(slower * total)}" if total else "an unknown time"


def _facts(node: Node) -> dict[str, Any]:
    """The content of node.json."""
    return {
        "address": node.address,
        "kind": node.kind,
        "title": node.title,
        "seed": node.seed,
        "inputs": list(node.inputs),
        "recipe": _setting(node).fingerprint() if node.recipe else "",
        "num_labels": node.num_labels,
        "keep_blocks": node.keep_blocks,
        "subset": node.subset,
        "machine": hardware() | {"commit": environment()["commit"]},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def folder_bytes(folder: Path) -> int:
    """Total size of the files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0
