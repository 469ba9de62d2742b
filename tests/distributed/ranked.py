"""Ranks as torchrun starts them, by forking, and a small training for them."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ADAMW, Job, Page, load, tiny_images, tiny_objective

from forked import start_ranks
from vitlet.console import Teller
from vitlet.data.batch import Batch
from vitlet.data.index import open_index
from vitlet.data.loader import TrainingBatches
from vitlet.distributed.world import World
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.log import MetricsLog
from vitlet.train.loop import Budget, Writer, train
from vitlet.train.optim import Rates, build_optimizer


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training of 12 steps on 20 images of noise."""
    folder = tmp_path_factory.mktemp("images")
    return Job(open_index(tiny_images(folder, count=20), cache=tmp_path_factory.mktemp("columns")), batch_size=8)


def start_world(body: Callable[[World], object], folder: Path, *, size: int = 2) -> list[int]:
    """`start_ranks` that have joined their world."""

    def joined() -> None:
        with World.joined() as world:
            body(world)

    return start_ranks(joined, folder, size=size)


def noting(run: Run) -> Callable[[Objective, World], None]:
    """For `note` of `run_training`: a line "step slot position" for every image that is learned from, beside `run`."""

    def wrap(objective: Objective, _: World) -> None:
        forward = objective.forward

        def noted(batch: Any, step: Step) -> Losses:
            pairs = zip(batch.slots.tolist(), batch.positions.tolist(), strict=True)
            lines = "".join(f"{step.index:02d} {slot} {position:02d}\n" for slot, position in pairs)
            with open(run.path.with_suffix(".ids"), "a") as log:  # one short write: whole among several writers
                log.write(lines)
            return forward(batch, step)

        objective.forward = noted

    return wrap


def order(run: Run) -> str:
    """The lines of `noting` by step and slot, whichever rank wrote them; a step made twice alike counts once."""
    return "".join(sorted(set(run.path.with_suffix(".ids").read_text().splitlines(keepends=True))))


def require_same_weights(run: Run, other: Run) -> None:
    """After the last step, of the model and the optimizer, in float64."""
    states = [checkpoint.read(r.checkpoints / "step-00000012").tensors for r in (run, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-9)


class Spoiled:
    """A loader whose batches are changed on their way."""

    def __init__(self, real: TrainingBatches, change: Callable[[Batch], Batch]) -> None:
        self.real, self.change = real, change
        self.steps_per_epoch, self.describe = real.steps_per_epoch, real.describe

    def from_step(self, start: int) -> Generator[Batch]:
        yield from map(self.change, self.real.from_step(start))


def run_training(
    job: Job,
    run: Run,
    world: World,
    *,
    page: Page | None = None,
    at_step: Callable[[int], object] | None = None,
    wrap: Callable[[Objective], None] | None = None,
    note: Callable[[Objective, World], None] | None = None,
    spoil: Callable[[Batch], Batch] | None = None,
    every: int = 6,
) -> None:
    """The training of `job` on one rank; `at_step` as in `Job`."""
    objective = tiny_objective().double()
    if wrap is not None:
        wrap(objective)
    if note is not None:
        note(objective, world)
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    found = load(run, objective, optimizer, world=world)
    batches = job.batches()
    share = type(batches)(**(vars(batches) | {"rank": world.rank, "num_ranks": world.size}))
    if spoil is not None:
        share = Spoiled(share, spoil)

    def schedule(step: int) -> Rates:
        if page is not None:
            page["step"] = step
        if at_step is not None:
            at_step(step)
        return Rates(1e-3, ADAMW.weight_decay)

    offset = found.manifest["metrics_bytes"] if found else 0
    metrics = MetricsLog(run, offset=offset) if world.is_first else None
    train(
        objective,
        batches=share,
        optimizer=optimizer,
        schedule=schedule,
        budget=Budget(total_steps=12, checkpoint_every=every, log_every=1, clip_norm=1.0),
        writer=Writer(run=run, metrics=metrics, teller=Teller(quiet=True), world=world),
        resumed=found,
    )
