"""Making the runs of a plan: one by one, side by side in processes, or spread over the ranks of torchrun.

If there are enough cores, several runs are made in parallel, one thread each, since small networks gain little from a
second thread. Runs that need a failed one are not made; all others are.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from vitlet.console import Teller
from vitlet.distributed.world import World
from vitlet.errors import WorkerError
from vitlet.host import available_cores
from vitlet.jobs.options import Options
from vitlet.jobs.pool import Pool, processes
from vitlet.jobs.side_by_side import num_places
from vitlet.jobs.spread import spread
from vitlet.replication.plan import Node, Plan
from vitlet.replication.runner import QUIET, attempt, record_failure
from vitlet.reports.numbers import duration
from vitlet.run import Run
from vitlet.text import plural

_POLL_SECONDS = 0.5


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
        side_by_side: Number of parallel runs, see `num_side_by_side`.
        options: Settings that change no number; `quiet` and `fresh` are decided here.
        teller: Receives progress messages.
        after: Called after each run, for example to show the results so far; on a rank, after each of its own.
    """
    teller = teller or Teller()
    if World.here().size > 1:
        _over_ranks(plan, seconds, options=options, teller=teller, after=after)
        return
    workers = min(num_side_by_side(side_by_side, options), len(plan.possible))
    if workers <= 1:
        _one_by_one(plan, seconds, options=options, teller=teller, after=after)
        return
    with processes(workers, threads=available_cores() // workers) as pool:
        _side_by_side(pool, plan, seconds, options=options, teller=teller, after=after)


def num_side_by_side(asked: int | None, options: Options) -> int:
    """Number of parallel runs: one on each rank, or as requested, or else the number of cores, or one on a GPU."""
    ranks = World.here().size
    return ranks if ranks > 1 else asked or num_places(options)


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
    with _progress(plan, seconds, teller) as tick:
        while waiting or pool.running:
            ready = [n for n in waiting.values() if not any(i in waiting or i in pool.running for i in n.inputs)]
            for node in ready[: pool.free]:
                pool.begin(node.address, attempt, node, options=options.changed(quiet=True))
                del waiting[node.address]
            for node in _ended(pool, plan):
                _say_failure(node, teller)
                waiting = {a: n for a, n in waiting.items() if plan.obstacle(n) is None}
                after()
            running = _of(plan, pool.running)
            tick([*waiting.values(), *running], running)


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
                record_failure(node, error)
    return _of(plan, before - pool.running)


def _over_ranks(
    plan: Plan, seconds: Mapping[str, float], *, options: Options, teller: Teller, after: Callable[[], None]
) -> None:
    """Each rank makes whole runs; the first one shows what all have made."""
    found = World.here().broadcast_json([node.address for node in plan.possible])  # it changes while they work
    waiting = [plan.nodes[address] for address in found]
    numbers = {node.address: number for number, node in enumerate(waiting)}
    inputs = {numbers[node.address]: [numbers[i] for i in node.inputs if i in numbers] for node in waiting}
    told: set[str] = set()

    def make_whole(node: Node) -> None:
        if plan.obstacle(node) is None:
            attempt(node, options=options.changed(quiet=True))
            after()

    with _progress(plan, seconds, teller) as tick:

        def watch(_: int) -> None:
            for node in plan.failed:
                if node.address not in told:
                    told.add(node.address)
                    _say_failure(node, teller)
            tick(plan.possible)

        spread([(make_whole, node) for node in waiting], watch=watch, after=inputs)


@contextmanager
def _progress(plan: Plan, seconds: Mapping[str, float], teller: Teller) -> Iterator[Callable[..., None]]:
    """Yield a function that shows how much of the expected time is spent, given the runs left and those under way."""
    total = sum(seconds.get(node.address, 0.0) for node in plan.possible)
    with teller.progress("making runs", total=max(1, round(total))) as tick:

        def show(left: Sequence[Node], running: Sequence[Node] = ()) -> None:
            due = sum(seconds.get(node.address, 0.0) * (1.0 - _share_done(node)) for node in left)
            names = ", ".join(f"{node.title} s{node.seed}" for node in running)
            tick(round(total - due), f"{plural(len(left), 'run')} left{f': {names}' if names else ''}")

        yield show


def _share_done(node: Node) -> float:
    """Completed share of a training, from its metrics; 0 for anything else."""
    if node.kind not in ("pretrain", "finetune") or not node.folder.is_dir():
        return 0.0
    rows = Run(node.folder).metrics()
    batch = node.recipe["budget"]["batch_size"]
    return min(1.0, rows[-1]["step"] * batch / max(1, node.images_seen)) if rows else 0.0


def _say_failure(node: Node, teller: Teller) -> None:
    if node.failure is not None:
        teller.say(f"{node.why_failed}; going on with what does not need it")


def _of(plan: Plan, addresses: Iterable[str]) -> list[Node]:
    return [plan.nodes[address] for address in sorted(addresses)]


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
