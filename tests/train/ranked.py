"""Ranks as torchrun starts them, by forking, and a small training for them."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from harness import ADAMW, Job, Page, fork, load, tiny_objective

from vitlet.methods.objective import Objective
from vitlet.run import Run
from vitlet.train.log import MetricsLog, Teller
from vitlet.train.loop import Budget, Writer, train
from vitlet.train.optim import build_optimizer
from vitlet.train.ranks import World


def start_ranks(body: Callable[[World], None], tmp_path: Path, *, size: int = 2) -> list[int]:
    """Fork `size` processes that find each other as under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def of(rank: int) -> Callable[[], None]:
        def joined() -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            world = World.join()
            try:
                body(world)
            finally:
                world.leave()

        return joined

    return [fork(of(rank), error_file=tmp_path / f"error-{rank}.txt") for rank in range(size)]


def errors(tmp_path: Path) -> str:
    return "\n".join(p.read_text() for p in sorted(tmp_path.glob("error-*.txt")))


def run_training(
    job: Job,
    run: Run,
    world: World,
    *,
    page: Page | None = None,
    step_seconds: float = 0.0,
    wrap: Callable[[Objective], None] | None = None,
    note: Callable[[Objective, World], None] | None = None,
    every: int = 6,
) -> None:
    objective = tiny_objective().double()
    if wrap is not None:
        wrap(objective)
    if note is not None:
        note(objective, world)
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    start, offset = load(run, objective, optimizer)
    batches = job.batches()
    share = type(batches)(**(vars(batches) | {"rank": world.rank, "num_ranks": world.size}))

    def schedule(step: int) -> float:
        if page is not None:
            page["step"] = step
            signal.sigtimedwait([], step_seconds)
        return 1e-3

    train(
        objective,
        batches=share,
        optimizer=optimizer,
        schedule=schedule,
        budget=Budget(total_steps=12, checkpoint_every=every, log_every=1, clip_norm=1.0),
        writer=Writer(run=run, metrics=MetricsLog(run, offset=offset), teller=Teller(quiet=True), world=world),
        start=start,
    )
